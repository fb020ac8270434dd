"""SoRA: gates that every step pulls towards zero; those that reach it are closed (Ding et al. 2023, arXiv 2311.11696).

    dW = s B diag(g) A                                  A: rank x in, g: rank, B: out x rank: `adapter.method=sora`
    g <- sign(g) max(|g| - threshold, 0)                after each optimiser step, whatever the learning rate: the proximal
                                                        step of threshold * |g|_1
    loss + penalty * mean |g|                           where `penalty` is asked for

That is the soft threshold as the paper writes it. `operator: released` is that of the authors' code: what is below twice the threshold
is zero too, and their trainer always has the penalty (1e-3 by default, 10 in its script). The threshold may rise linearly to
`final_threshold`, and decides alone unless a budget is given. Where threshold times steps is far below 1 hardly more closes than what was
drawn near zero, and a warning says so.
At each tick the units with the largest |g| of all sites stay, as many as the
limit allows, but none that has been pulled to zero: the result may have fewer parameters than the budget. The gate of a closed unit
has a gradient: a unit whose gate the optimiser would move beyond the threshold in one step can come back.
Without a gate it is the group version: of what closes a unit, its column of B for instance, v <- v max(0, 1 - threshold / |v|), and
|v| is the unit's size. A core's numbers belong to two units, and are pulled by both. An update whose start is subtracted (PiSSA) is
pulled back to that start.
Differs from the authors' code in: the operator, unless `released`; there can be a budget, and a schedule that leads to it; gates learn
with the optimiser of the rest; one training in place of a staircase of trainings with rising thresholds.
When to use it: where the data should say how many ranks are needed, and the budget is only the most there may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.anchored import Anchored
from lorakit.adapters.json_tensors import pack_all, unpack
from lorakit.adapters.options import Option
from lorakit.adapters.rank_units import along, axes_of
from lorakit.adapters.switching import ON
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.penalty import with_penalty
from lorakit.searching.unit_allocator import UnitAllocator, Units
from lorakit.tasks.batching import SummedLoss

SHRINKING = 16
"""Small operations that shrink a site's units and measure them."""
OPERATORS = ("soft", "released")
LITTLE = 0.5
"""Thresholds of all steps together: below it few of the gates, which start as N(0, 1), are ever pulled to zero."""


class SoRA(UnitAllocator):
    """Soft-thresholds what closes a unit after every step, and keeps the largest."""

    name = "sora"
    title = "SoRA"
    sees_tokens = False
    empties = True
    summary = "rank units by gates that every step pulls towards zero"
    source = "Ding et al. 2023, arXiv 2311.11696"
    default_share = 1.0
    options: ClassVar = {
        "threshold": Option(3e-4, "what a gate loses after each step, not multiplied by the learning rate", low=0.0),
        "final_threshold": Option(0.0, "the threshold that is reached at the end, linearly; 0: it stays", low=0.0),
        "penalty": Option(0.0, "weight of the gates' mean size in the loss; 1e-3 to 10 in the authors' code", low=0.0),
        "operator": Option(
            "soft", "soft: the proximal step; released: zero below twice the threshold too", choices=OPERATORS
        ),
    }

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.least = 2.0 if self.settings["operator"] == "released" else 1.0
        for adapter in self.adapters.values():
            closing = {name: adapter.spec.trains(role) for name, _, role in gates(adapter)}
            if not closing or not all(closing.values()):
                what = " and ".join(name for name, trains in closing.items() if not trains) or "any tensor with ranks"
                raise RecipeError(
                    f"allocator 'sora' pulls {what} of {adapter.site.name} towards zero, and it does not train",
                    key="adapter.trainable",
                    valid="all",
                )
        self.sizes: Units = {name: size_of(adapter).detach() for name, adapter in self.adapters.items()}
        self.opened: Units = {name: sizes > 0 for name, sizes in self.sizes.items()}

    @classmethod
    def cautions(cls, search: SearchSection, total_steps: int) -> list[str]:
        """Where the steps are too few for the threshold to decide anything but which gates were small at the start."""
        settings = cls.settings_from(search.options)
        pulled = total_steps * (settings["threshold"] + (settings["final_threshold"] or settings["threshold"])) / 2
        if pulled >= LITTLE:
            return []
        what = f"search 'sora': {total_steps} steps pull a gate by {pulled:.2g} in all, and gates start as N(0, 1)"
        instead = f"search.options={{threshold: {1 / total_steps:.1g}}} would pull by 1"
        return [f"{what}: what closes is what started near zero; {instead}"]

    def threshold(self, step: int) -> float:
        """What is taken away after ``step`` steps."""
        first: float = self.settings["threshold"]
        last: float = self.settings["final_threshold"] or first
        return first + (last - first) * step / self.context.total_steps

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """A few small operations at every site after each step."""
        return cost_model.small(SHRINKING) * cost_model.steps + cls.choosing(ticks, cost_model)

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Pull every unit towards zero, and measure what is left of it; of closed ones too, before they are put back.

        A site outside the function keeps the sizes with which it left it.
        """
        threshold = self.threshold(step)
        for name, adapter in self.adapters.items():
            if adapter.state == ON:
                shrink(adapter, threshold, self.least * threshold)
                self.sizes[name] = size_of(adapter)
                self.opened[name] |= self.sizes[name] > 0

    def unit_scores(self) -> Units:
        """Site -> the size of each unit's gate."""
        return self.sizes

    def decide(self, step: int) -> Decision:
        """The largest units that fit, without those that were open once and are zero."""
        decided = super().decide(step)
        self.close_empty()
        return decided

    def close_empty(self) -> None:
        """Units that were pulled to zero count as closed."""
        live = {name: adapter.units.mask & ~self.empty(name) for name, adapter in self.adapters.items()}
        if any(not torch.equal(units, self.adapters[name].units.mask) for name, units in live.items()):
            self.keep(live)

    def empty(self, name: str) -> torch.Tensor:
        """Which units of a site were open once and are zero, true or false."""
        return (self.opened[name] & (self.sizes[name] == 0)).cpu()

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and the penalty on the units' sizes."""
        return with_penalty(loss, self.settings["penalty"], self.live_sizes)

    def live_sizes(self) -> list[torch.Tensor]:
        """The mean size of all units of the sites in training."""
        sizes = [size_of(adapter) for adapter in self.adapters.values() if adapter.state == ON]
        return [torch.cat(sizes).mean()] if sizes else []

    def finish(self) -> None:
        """Units that the last steps pulled to zero go too."""
        self.close_empty()
        super().finish()

    def state_dict(self) -> dict[str, Any]:
        """The sizes too."""
        return super().state_dict() | {"sizes": pack_all(self.sizes), "opened": pack_all(self.opened)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        for name in self.adapters:
            self.sizes[name] = unpack(state["sizes"][name]).to(self.sizes[name].device)
            self.opened[name] = unpack(state["opened"][name]).to(self.sizes[name].device)


def gates(adapter: Adapter) -> Iterator[tuple[str, torch.Tensor, str]]:
    """What closes the site's units: tensors with their names and roles; all that trains by units where a start is subtracted."""
    anchored = isinstance(adapter.delta, Anchored)
    for name, tensor, role in adapter.trained_tensors() if anchored else adapter.tensors():
        if axes_of(adapter.delta, name) and (anchored or name in adapter.delta.closers()):
            yield name, tensor, role


def opened(adapter: Adapter) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, tuple[int, ...]]]:
    """Each of the ``gates`` with the start that is subtracted from it, if any, and its rank axes."""
    for name, tensor, _ in gates(adapter):
        start = adapter.delta.start.get_parameter(name) if isinstance(adapter.delta, Anchored) else None
        yield tensor, start, axes_of(adapter.delta, name)


def size_of(adapter: Adapter) -> torch.Tensor:
    """How far each rank unit (rank,) is from being closed: the norm of its slices; its gradient is finite at zero."""
    norms = [
        torch.linalg.vector_norm(moved(tensor, start).movedim(axis, 0).reshape(adapter.rank, -1), dim=1)
        for tensor, start, axes in opened(adapter)
        for axis in axes
    ]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)


def moved(tensor: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """The tensor less what is subtracted from it."""
    return tensor if start is None else tensor - start


def shrink(adapter: Adapter, threshold: float, least: float) -> None:
    """Pull each unit of size v to ``v - threshold``, and to 0 where v is not above ``least``."""
    sizes = size_of(adapter)
    factors = torch.where(sizes > least, 1 - threshold / sizes.clamp_min(torch.finfo(sizes.dtype).tiny), 0.0)
    for tensor, start, axes in opened(adapter):
        for axis in axes:
            factor = along(factors, axis, tensor.ndim)
            if start is None:
                tensor.mul_(factor)
            else:
                tensor.copy_(torch.where(factor == 0, start, start + (tensor - start) * factor))


allocators.register(SoRA)
