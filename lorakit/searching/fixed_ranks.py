"""Allocators that give every site its rank before the first step and leave it there: the first units, the others cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.options import Option
from lorakit.adapters.switching import DROPPED, ON
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Decision, Preview, SearchContext
from lorakit.searching.cost_model import CostModel
from lorakit.searching.selection import select_units
from lorakit.searching.unit_allocator import UnitAllocator, Units


class FixedRanks(UnitAllocator):
    """Ranks from scores that fall from a site's first unit to its last; a site of rank 0 leaves the function.

    The timeline tells a site's score as the sum over its units, whether it gets them or not.
    """

    steady = True
    sees_tokens = False
    options: ClassVar = {
        "scale": Option(
            "full",
            "a site's scale: that of its full rank, or that of the rank it is given, so that thin sites learn faster",
            choices=("full", "own"),
        )
    }

    def __init__(self, context: SearchContext):
        super().__init__(context)
        if context.ticks[0] > 0:
            raise RecipeError(
                f"allocator '{context.search.method}' gives ranks at step 0, and the first tick is at {context.ticks[0]}",
                key="search.warmup",
                valid="0",
            )

    @classmethod
    def trains(cls, search: SearchSection, cost_model: CostModel) -> tuple[float, float]:
        """The budget's share of the sites' ranks, all over the model."""
        return cost_model.share, 1.0

    def allowed(self, step: int) -> int:
        """The budget, from the start."""
        return self.context.budget.parameters

    def decide(self, step: int) -> Decision:
        """Ranks, at the first tick."""
        if self.ticks_done:
            return Decision(self.context.search.method)
        scores = self.unit_scores()
        chosen = self.allocate(scores, self.allowed(step) - self.common)
        self.give({name: int(units.sum()) for name, units in chosen.items()})
        return Decision(self.context.search.method, {name: float(values.sum()) for name, values in scores.items()})

    def preview(self) -> Preview:
        """The scores, and the ranks that the budget is for."""
        scores = self.unit_scores()
        chosen = self.allocate(scores, self.allowed(0) - self.common)
        return Preview(
            {name: float(values.sum()) for name, values in scores.items()},
            {name: float(units.sum()) / self.adapters[name].rank for name, units in chosen.items()},
        )

    def allocate(self, scores: Units, limit: int) -> dict[str, torch.Tensor]:
        """Site -> which of its rank units ``limit`` parameters pay for."""
        return select_units(scores, self.adapters, limit, self.context.generator)

    def give(self, ranks: Mapping[str, int]) -> None:
        """Cut every site to its rank."""
        for name, rank in ranks.items():
            self.adapters[name].units.cut(rank)
        self.context.adapted.restore({name: ON if rank else DROPPED for name, rank in ranks.items()})
        self.rescale()
        self.hold()

    def rescale(self) -> None:
        """Every site's scale is that of the rank it was given, where that is asked for."""
        if self.settings["scale"] == "own":
            for adapter in self.adapters.values():
                adapter.scale = adapter.spec.scale_at(max(adapter.units.live, 1))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.rescale()
