"""What every allocator has: the model it steers, its budget, its own random stream, what it does within a step, its state."""

# ruff: noqa: B027 - an allocator need not act at every point of a step

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.budget import Budget
from lorakit.adapters.options import Option, read_known
from lorakit.errors import Problem, RecipeError, nearest
from lorakit.recipe.schema import SearchSection
from lorakit.registry import Registry
from lorakit.searching.cost_model import CostModel
from lorakit.searching.scoring import Logits, Loss
from lorakit.searching.timeline import Tick, churn
from lorakit.tasks.batching import Batch, SummedLoss

DrawBatches = Callable[[int, torch.Generator], list[Batch]]


@dataclass(frozen=True)
class SearchContext:
    """What the workflow hands to an allocator.

    costs: site -> parameters at its full rank; draw: (number, generator) -> batches of training rows; generator: the search's
    stream; total_steps and ticks: the training's optimiser steps, and those before which the search acts; moments: parameter -> the
    optimiser's tensors of its shape.
    """

    adapted: AdaptedModel
    search: SearchSection
    budget: Budget
    costs: dict[str, int]
    draw: DrawBatches
    loss: Loss
    logits: Logits
    regression: bool
    generator: torch.Generator
    total_steps: int = 1
    ticks: list[int] = field(default_factory=lambda: [0])
    moments: Callable[[nn.Parameter], Iterable[torch.Tensor]] = lambda parameter: ()


class Allocator(ABC):
    """Decides who gets the budget: called at every tick, and at those points of a training step that it overrides.

    name: what recipes call it; title, summary and source: what `lorakit show` tells; options: its own settings
    (`search.options`), whose values an instance has as ``settings``; by: what it gives or takes, whole sites or single
    rank units; default_share: the budget where a recipe gives none, of all sites' parameters; at_once: whether its
    first decision, on a fresh model, is one to train by (`lorakit search`); empties: whether its steps may close what
    the last tick left on; steady: see ``Hook``, where watched sites may be an exception; sees_tokens: whether it looks
    at what modules compute for each token, and not at gradients, weights and logits alone.
    Raises RecipeError where it cannot work with the recipe's adapters.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Option]] = {}
    by: ClassVar[Literal["site", "unit"]] = "site"
    default_share: ClassVar[float] = 0.25
    at_once: ClassVar[bool] = False
    steady: ClassVar[bool] = False
    sees_tokens: ClassVar[bool] = True
    empties: ClassVar[bool] = False

    def __init__(self, context: SearchContext):
        self.context = context
        self.ticks = 0
        self.settings = read_settings(type(self), context.search.options)

    def tick(self, step: int, epoch: float) -> Tick:
        """Decide, and say what was decided."""
        started = time.perf_counter()
        adapted = self.context.adapted
        before = [name for name, rank in adapted.ranks().items() if rank]
        decided = self.decide(step)
        self.ticks += 1
        ranks = adapted.ranks()
        on = [name for name, rank in ranks.items() if rank]
        return Tick(
            tick=self.ticks - 1,
            step=step,
            epoch=epoch,
            proxy=decided.proxy,
            scores=decided.scores,
            on=on,
            ranks=ranks,
            cut=decided.cut,
            margin=decided.margin,
            churn=churn(before, on) if self.ticks > 1 else 0.0,
            parameters=adapted.adapter_parameters(),
            budget=self.allowed(step),
            seconds=time.perf_counter() - started,
        )

    @classmethod
    def trains(cls, search: SearchSection, cost_model: CostModel) -> tuple[float, float]:
        """What a step between ticks computes: the share of the sites' paths, and how deep gradients go; all by default."""
        return 1.0, 1.0

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """What it adds to a training with these ``ticks``, in multiply-adds (see ``lorakit.searching.cost_model``); nothing by default."""
        return 0.0

    @abstractmethod
    def decide(self, step: int) -> Decision:
        """Score, allocate, switch; before optimiser step ``step``."""

    def allowed(self, step: int) -> int:
        """The most adapter parameters that may be on after a tick at ``step``; the budget, unless there is a way down to it."""
        return self.context.budget.parameters

    # -- within a training step -------------------------------------------------------------------------------

    def before_forward(self, step: int) -> None:
        """Before a step's first forward pass."""

    def after_backward(self, step: int) -> None:
        """Gradients of the whole step are there, not yet clipped."""

    def after_step(self, step: int) -> None:
        """The optimiser has stepped; the gradients it used are still there. ``step`` counts this one already."""

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss to train on, given the one so far; itself by default."""
        return loss

    def finish(self) -> None:
        """After the last step: leave a model that needs no allocator to be what it is."""

    # -- its state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state for a checkpoint: what is on, how far the stream is."""
        return {
            "ticks": self.ticks,
            "states": self.context.adapted.states(),
            "units": self.context.adapted.unit_record(),
            "generator": self.context.generator.get_state().tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; the adapters' tensors are loaded already."""
        self.ticks = state["ticks"]
        self.context.adapted.restore_units(state["units"])
        self.context.adapted.restore(state["states"])
        self.context.generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))


allocators: Registry[type[Allocator]] = Registry("allocator", "lorakit.searching.allocators")


@dataclass(frozen=True)
class Decision:
    """What a tick decided on: by which proxy, each site's score (none where nothing is scored), see Allocation for the rest."""

    proxy: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    cut: float | None = None
    margin: float | None = None


def read_settings(kind: type[Allocator], given: Mapping[str, str]) -> dict[str, Any]:
    """The values of the method's options, defaults included. Raises RecipeError for names and values it does not have."""
    values, problems = read_known(kind.options, given, "search.options")
    problems += [
        Problem(
            f"this allocator has no option '{name}'",
            key="search.options",
            valid=", ".join(kind.options) or "it has none",
            hint=nearest(name, list(kind.options)),
        )
        for name in given
        if name not in kind.options
    ]
    if problems:
        raise RecipeError(problems)
    return {name: values.get(name, option.default) for name, option in kind.options.items()}
