"""Allocators that give and take single rank units: one way from everything to the budget, one way to close and hold units.

limit        everything until `search.warmup` of the training is over, then down to the budget, which is reached `search.tail` before
             the end, by a cubic that is fast first and slow last (AdaLoRA, Zhang et al. 2023, section 3.3), or by the
             allocator's own way; from there on nothing changes
choice       the best units whose parameters fit, over all sites together
closed       a unit that is off adds nothing to the function and does not move: after every optimiser step it is put back
scale        stays that of the rank a site was built with: the function does not jump when units go
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.budget import portion
from lorakit.adapters.rank_units import axes_of
from lorakit.adapters.switching import DROPPED, ON
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Allocator, Decision, SearchContext
from lorakit.searching.cost_model import SMALL, CostModel
from lorakit.searching.selection import largest_uniform_rank, select_units

logger = logging.getLogger(__name__)

CHOOSING = 4
"""Small operations for a rank unit when units are chosen."""

Units = dict[str, torch.Tensor]
"""Site -> a score, or yes or no, for each of its rank units."""


class UnitAllocator(Allocator):
    """Keeps the best rank units. A subclass says what they are worth, and observes what it needs for that in ``observe``."""

    by: ClassVar[Literal["site", "unit"]] = "unit"

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.adapters = divisible_adapters(context)
        self.everything = context.adapted.adapter_parameters()
        self.common = shared_parameters(context)
        self.begin = round(context.search.warmup * context.total_steps)
        self.end = context.total_steps - round(context.search.tail * context.total_steps)
        self.held: list[tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]] = []

    @classmethod
    def choosing(cls, ticks: Sequence[int], cost_model: CostModel) -> float:
        """What choosing among all units adds: a few small operations for each of them."""
        return SMALL * CHOOSING * sum(cost_model.ranks) * len(ticks)

    @abstractmethod
    def unit_scores(self) -> Units:
        """What each rank unit is worth, larger is better; open and closed ones alike."""

    def observe(self, step: int) -> None:
        """After an optimiser step, with its gradients still there, before closed units are put back."""

    def allowed(self, step: int) -> int:
        """The limit at ``step``."""
        final = self.context.budget.parameters
        if step >= min(self.end, self.context.ticks[-1]):  # a last tick before the end has the last word
            return final
        return max(portion(self.share_left(step, final / self.everything), self.everything), final)

    def share_left(self, step: int, final: float) -> float:
        """The share of everything that the limit is at ``step``, on the way to the share ``final``."""
        return remaining(step, self.begin, self.end, final)

    def decide(self, step: int) -> Decision:
        """Score every unit, keep the best, close the others."""
        scores = self.unit_scores()
        limit = self.allowed(step) - self.common  # what sites share is always spent
        self.keep(select_units(scores, self.adapters, limit, self.context.generator))
        sites = {
            name: float(values[self.adapters[name].units.mask.to(values.device)].sum())
            for name, values in scores.items()
        }
        return Decision(self.context.search.method, sites)

    def keep(self, units: Mapping[str, torch.Tensor]) -> None:
        """Exactly these rank units are live.

        A site without any stays attached, so that it can come back, unless more than units of it train.
        """
        states = {}
        for name, adapter in self.adapters.items():
            adapter.units.keep(units[name])
            gone = not adapter.units.live and (adapter.state == DROPPED or has_more_than_units(adapter))
            states[name] = DROPPED if gone else ON
        self.context.adapted.restore(states)
        self.hold()

    def hold(self) -> None:
        """Remember what closed units look like."""
        self.held = []
        for adapter in self.adapters.values():
            if adapter.state == ON and not adapter.units.mask.all():
                for name, tensor, _ in adapter.trained_tensors():
                    closed = (~adapter.units.mask).nonzero().flatten().to(tensor.device)
                    for axis in axes_of(adapter.delta, name):
                        self.held.append((tensor, axis, closed, tensor.detach().index_select(axis, closed)))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Observe, then put closed units back: nothing moves them."""
        self.observe(step)
        self.put_back()

    @torch.no_grad()
    def put_back(self) -> None:
        """Closed units are as they were."""
        for tensor, axis, closed, values in self.held:
            tensor.index_copy_(axis, closed, values)

    def finish(self) -> None:
        """Sites without a unit leave the function; cut units are closed, so that the tensors alone say what is in it."""
        for adapter in self.adapters.values():
            adapter.units.keep(adapter.units.mask)
        adapted = self.context.adapted
        adapted.restore({name: ON if a.units.live and a.state == ON else DROPPED for name, a in self.adapters.items()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.hold()


def without_phases(search: SearchSection) -> list[str]:
    """That a search whose published settings train everything first, and the chosen units last, does neither here."""
    if search.warmup or search.tail:
        return []
    what = f"search '{search.method}' cuts from the first tick to the last step: its authors train everything first and the units that"
    return [f"{what} stay last, as search.warmup=0.15 and search.tail=0.5 do"]


def has_more_than_units(adapter: Adapter) -> bool:
    """Whether tensors train that belong to no rank unit: a magnitude, a vector over the outputs."""
    return any(not axes_of(adapter.delta, name) for name, _, _ in adapter.trained_tensors())


def no_units(search: str, delta: str) -> Problem:
    """Why the search cannot take units out of this delta."""
    return Problem(
        f"allocator '{search}' takes single rank units, and delta '{delta}' has none to take",
        key="search.method",
        valid="none or heterolora with this adapter",
        hint="an adapter method such as lora, dora, trilora or flora",
    )


def divisible_adapters(context: SearchContext) -> dict[str, Adapter]:
    """Site -> its adapter. RecipeError where there is one whose rank units cannot be taken out one by one."""
    adapters = context.adapted.adapters
    for adapter in adapters.values():
        if not adapter.units.divisible:
            raise RecipeError(no_units(context.search.method, adapter.spec.delta))
    return adapters


def shared_parameters(context: SearchContext) -> int:
    """Trained adapter parameters that are no site's own: always spent."""
    adapted = context.adapted
    return adapted.adapter_parameters(adapted.adapters) - sum(
        adapter.parameters_at(adapter.units.live) for adapter in adapted.adapters.values()
    )


def rank_for_all(context: SearchContext) -> int:
    """The largest rank that the budget holds on all sites at once. RecipeError where that is not even 1."""
    adapters, budget = context.adapted.adapters.values(), context.budget.parameters
    common = shared_parameters(context)
    rank = largest_uniform_rank(adapters, budget - common)
    if not rank:
        least = sum(adapter.parameters_at(1) for adapter in adapters) + common
        raise RecipeError(
            f"allocator '{context.search.method}' needs rank 1 on all {len(adapters)} sites, and {budget:,} parameters do not pay",
            key="search.enable" if context.search.parameters is None else "search.parameters",
            valid=f"{least:,} parameters or more",
            hint="search.uniform_rank=1, or fewer targets",
        )
    return rank


def check_later_tick(context: SearchContext) -> None:
    """RecipeError where no tick comes after step 0, for allocators that decide on what was trained."""
    if context.ticks[-1] == 0:
        raise RecipeError(
            f"allocator '{context.search.method}' decides at a tick after step 0, and there is none",
            key="search.every",
            hint="a smaller search.every, or more epochs",
        )


def remaining(step: int, begin: int, end: int, final: float) -> float:
    """The share of everything that is left at ``step``: 1 up to ``begin``, ``final`` from ``end`` (Zhu & Gupta 2017).

    Between them final + (1 - final) (1 - t)^3, for t from 0 to 1.
    """
    if step <= begin:
        return 1.0
    if step >= end:
        return final
    return final + (1 - final) * (1 - (step - begin) / (end - begin)) ** 3
