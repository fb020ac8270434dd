"""When things happen: steps, ticks, evaluations, checkpoints. The same for `plan` and for the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe, SearchSection
from lorakit.searching.allocator import allocators


@dataclass(frozen=True)
class Schedule:
    """Optimiser steps, counted from 0. A tick at step s happens before it; evaluations and checkpoints after s steps are done."""

    rows: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    ticks: list[int]
    evaluations: list[int]
    checkpoints: list[int]

    def next_tick(self, step: int) -> int | None:
        """The first tick at or after ``step``."""
        return next((tick for tick in self.ticks if tick >= step), None)


def make_schedule(recipe: Recipe, rows: int) -> Schedule:
    """The schedule of training ``rows`` rows by ``recipe``. Raises RecipeError for one that cannot be kept."""
    training, search = recipe.training, recipe.search
    per_epoch = math.ceil(math.ceil(rows / training.batch_size) / training.accumulate)
    total = steps_in(training.epochs, per_epoch)
    if training.max_steps is not None:
        total = min(total, training.max_steps)
    ticks = [] if search.method == "none" else search_ticks(search, per_epoch, total)
    evaluations = every(recipe.evaluation.every_steps or steps_in(recipe.evaluation.every, per_epoch), total)
    checkpoints = every(steps_in(recipe.run.checkpoint_every, per_epoch), total)
    warmup = steps_in(training.warmup, total)
    return Schedule(rows, per_epoch, total, warmup, ticks, evaluations, checkpoints)


def search_ticks(search: SearchSection, per_epoch: int, total: int) -> list[int]:
    """The steps before which the search acts. Raises RecipeError where there is none."""
    if own := allocators.get(search.method).own_ticks(search, total):
        return own
    period = steps_in(search.every, per_epoch)
    if search.every * per_epoch < 1:
        raise RecipeError(
            Problem(
                f"a tick every {search.every:g} epochs is more than one a step: an epoch has {per_epoch} steps",
                key="search.every",
                valid=f"at least {1 / per_epoch:.3g}",
            )
        )
    # ticks restart with the epoch, as the authors' do, so that 0.2 gives five an epoch whatever its length
    ticks = [s for s in range(total) if s % per_epoch % period == 0]
    if search.every >= 1:
        ticks = list(range(0, total, period))
    first, last = steps_in(search.warmup, total), total - steps_in(search.tail, total)
    ticks = [s for s in ticks if first <= s <= last]
    if not ticks:
        raise RecipeError(
            Problem(
                f"no tick is left between the first {search.warmup:.0%} and the last {search.tail:.0%} of {total} steps",
                key="search.every",
                hint="a smaller search.every, search.warmup or search.tail",
            )
        )
    return ticks


def steps_in(share: float, steps: int) -> int:
    """``share`` of ``steps``, rounded up, but not for the error of a product of floats: 1.1 epochs of 10 steps are 11, not 12."""
    return max(math.ceil(round(share * steps, 9)), 1 if share > 0 else 0)


def share_or_steps(number: float, total: int) -> int:
    """``number`` of steps, or below 1 that share of ``total``: 0.1 of 60 is 6, and 6 is 6."""
    return steps_in(number, total) if number < 1 else math.floor(number)


def every(period: int, total: int) -> list[int]:
    """Multiples of ``period`` up to ``total``, and ``total`` itself."""
    return sorted({*range(period, total + 1, period), total})
