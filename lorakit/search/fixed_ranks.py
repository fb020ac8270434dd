"""Search methods that give every site its rank before the first step and leave it there: the first units, the others cut off."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapters.adapter import DROPPED, ON
from lorakit.errors import RecipeError
from lorakit.search.allocate import allocate_units
from lorakit.search.policy import Decision, SearchContext
from lorakit.search.unit_policy import UnitPolicy


class FixedRanks(UnitPolicy):
    """Ranks from scores that fall from a site's first unit to its last; a site of rank 0 leaves the function."""

    def __init__(self, context: SearchContext):
        super().__init__(context)
        if context.ticks[0] > 0:
            raise RecipeError(
                f"search method '{context.search.method}' gives ranks at step 0, and the first tick is at {context.ticks[0]}",
                key="search.warmup",
                valid="0",
            )

    def allowed(self, step: int) -> int:
        """The budget, from the start."""
        return self.context.budget.parameters

    def decide(self, step: int) -> Decision:
        """Ranks, at the first tick."""
        if self.ticks:
            return Decision(self.context.search.method)
        scores = self.unit_scores()
        limit = self.allowed(step) - self.common
        chosen = allocate_units(scores, self.adapters, limit, self.context.generator)
        ranks = {name: int(units.sum()) for name, units in chosen.items()}
        self.give(ranks)
        return Decision(
            self.context.search.method, {name: float(values[: ranks[name]].sum()) for name, values in scores.items()}
        )

    def give(self, ranks: Mapping[str, int]) -> None:
        """Cut every site to its rank."""
        for name, rank in ranks.items():
            self.adapters[name].cut(rank)
        self.context.adapted.restore({name: ON if rank else DROPPED for name, rank in ranks.items()})
        self.hold()
