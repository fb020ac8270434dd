"""What every allocator has: the model it steers, its budget, its own random stream, what it does within a step, its state."""

# ruff: noqa: B027 - an allocator need not act at every point of a step

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.budget import Budget
from lorakit.adapters.options import Option, read_settings
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.registry import Registry
from lorakit.searching.cost_model import CostModel
from lorakit.searching.proxy import Logits, Loss, Scores
from lorakit.searching.timeline import Tick, churn
from lorakit.tasks.batching import Batch, SummedLoss

logger = logging.getLogger(__name__)

DrawBatches = Callable[[int, torch.Generator], list[Batch]]


@dataclass(frozen=True)
class SearchContext:
    """What the workflow hands to an allocator.

    costs: site -> parameters at its full rank; draw: (number, generator) -> batches of training rows; generator: the search's
    stream; total_steps and ticks: the training's optimiser steps, and those before which the search acts; moments: parameter ->
    Adam's tensors of its shape; told: what people have heard already.
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
    told: list[str] = field(default_factory=list)

    def batches(self) -> list[Batch]:
        """The ``search.batches`` batches of training rows that a tick looks at, from the search's stream.

        Said the first time: people wait for it, and later ticks are no news.
        """
        if not self.told:
            self.told.append("scoring")
            logger.info("scoring %d sites on %d batches of training rows", len(self.adapted.sites), self.search.batches)
        return self.draw(self.search.batches, self.generator)

    def seed(self) -> int:
        """A seed for what is drawn while scoring (dropout), from the search's stream."""
        return int(torch.randint(2**31, (), generator=self.generator))


@dataclass(frozen=True)
class Decision:
    """What a tick decided on: by which proxy, each site's score (none where nothing is scored), see Selection for the rest.

    measured: what else it has to tell, name -> number.
    """

    proxy: str = ""
    scores: Scores = field(default_factory=dict)
    cut: float | None = None
    margin: float | None = None
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preview:
    """What would be decided: each site's score, and the share of its full rank that it would get."""

    scores: Mapping[str, float]
    shares: Mapping[str, float]


class Allocator(ABC):
    """Decides who gets the budget: called at every tick, and at those points of a training step that it overrides.

    Raises RecipeError where it cannot work with the recipe's adapters.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    """What recipes call it (``search.method``), and what `lorakit list` and `lorakit show` tell of it."""

    options: ClassVar[Mapping[str, Option]] = {}
    """Its own settings (``search.options``); an instance has their values as ``settings``."""

    by: ClassVar[Literal["site", "unit"]] = "site"
    default_share: ClassVar[float] = 0.25
    by_proxy: ClassVar[bool] = False
    """What it gives or takes: whole sites, or single rank units; the budget where a recipe gives none, as a share of all sites'
    parameters; whether it scores sites by the recipe's proxy (``search.proxy``)."""

    before_training: ClassVar[bool] = False
    at_once: ClassVar[bool] = False
    """When it decides: whether it is a search of its own, which comes before the training and finds the recipe to train
    (``workflow.glora``); whether its first decision, on a fresh model, is one to train by (`lorakit search`)."""

    empties: ClassVar[bool] = False
    refactors: ClassVar[bool] = False
    steady: ClassVar[bool] = False
    sees_tokens: ClassVar[bool] = True
    needs_weight_gradients: ClassVar[bool] = False
    """What the training must know: whether its steps may close what the last tick left on; whether it writes the factors of an update
    anew, so that no entry of them keeps its meaning; ``Hook.steady``, where watched sites may be an exception; whether it looks at what
    modules compute for each token, and not at gradients, weights and logits alone; whether at gradients of the frozen weights."""

    def __init__(self, context: SearchContext):
        check_acts_in_training(type(self))
        self.context = context
        self.ticks_done = 0
        self.settings = self.settings_from(context.search.options)
        for caution in self.cautions(context.search, context.total_steps):
            logger.warning("%s", caution)

    @classmethod
    def settings_from(cls, given: Mapping[str, str]) -> dict[str, Any]:
        """The value of every option. Raises RecipeError with all names and values that it does not have."""
        return read_settings(f"allocator '{cls.name}'", cls.options, given, "search.options")

    @classmethod
    def moves_moments(cls, search: SearchSection) -> bool:
        """Whether it changes Adam's moments (``SearchContext.moments``)."""
        return False

    @classmethod
    def own_ticks(cls, search: SearchSection, total_steps: int) -> list[int]:
        """The steps before which it acts, where it says so itself; none where ``search.every`` does. RecipeError where there is no time."""
        return []

    @classmethod
    def cautions(cls, search: SearchSection, total_steps: int) -> list[str]:
        """What of these settings, in so many steps, does other than a person may expect, a sentence each."""
        return []

    # -- at a tick -----------------------------------------------------------------------------------------------------

    def tick(self, step: int, epoch: float) -> Tick:
        """Decide, and say what was decided."""
        started = time.perf_counter()
        adapted = self.context.adapted
        before = [name for name, rank in adapted.ranks().items() if rank]
        decided = self.decide(step)
        self.ticks_done += 1
        ranks = adapted.ranks()
        on = [name for name, rank in ranks.items() if rank]
        return Tick(
            tick=self.ticks_done - 1,
            step=step,
            epoch=epoch,
            proxy=decided.proxy,
            scores=decided.scores,
            on=on,
            ranks=ranks,
            cut=decided.cut,
            margin=decided.margin,
            churn=churn(before, on) if self.ticks_done > 1 else 0.0,
            parameters=adapted.adapter_parameters(),
            budget=self.allowed(step),
            seconds=time.perf_counter() - started,
            measured=decided.measured,
        )

    @abstractmethod
    def decide(self, step: int) -> Decision:
        """Score, allocate, switch; before optimiser step ``step``."""

    def preview(self) -> Preview:
        """What the first tick would decide, with nothing switched. RecipeError for allocators that do not decide at once (``at_once``)."""
        raise decides_later(self.name)

    def allowed(self, step: int) -> int:
        """The most adapter parameters that may be on after a tick at ``step``; the budget, unless there is a way down to it."""
        return self.context.budget.parameters

    # -- within a training step ----------------------------------------------------------------------------------------

    def before_forward(self, step: int) -> None:
        """Before a step's first forward pass."""

    def after_backward(self, step: int) -> None:
        """Gradients of the whole step are there, not yet clipped."""

    def after_step(self, step: int) -> None:
        """The optimiser has stepped; the gradients it used are still there. ``step`` counts this one already."""

    def rate(self, step: int) -> float:
        """What the learning rates of optimiser step ``step`` are multiplied by."""
        return 1.0

    def put_back(self) -> None:
        """Give what no step may move, a rank unit that is closed, the values it had before the last one."""

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss to train on, given the one so far; itself by default."""
        return loss

    def finish(self) -> None:
        """After the last step: leave a model that needs no allocator to be what it is."""

    # -- what it costs -------------------------------------------------------------------------------------------------

    @classmethod
    def trains(cls, search: SearchSection, cost_model: CostModel) -> tuple[float, float]:
        """What a step between ticks computes: the share of the sites' paths, and how deep gradients go; all by default."""
        return 1.0, 1.0

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """What it adds to a training with these ``ticks``, in multiply-adds (see ``lorakit.searching.cost_model``); nothing by default."""
        return 0.0

    # -- its state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state for a checkpoint: what is on, how far the stream is."""
        return {
            "ticks": self.ticks_done,
            "states": self.context.adapted.states(),
            "units": self.context.adapted.unit_record(),
            "generator": self.context.generator.get_state().tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; the adapters' tensors are loaded already."""
        self.ticks_done = state["ticks"]
        self.context.adapted.restore_units(state["units"])
        self.context.adapted.restore(state["states"])
        self.context.generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))


allocators: Registry[type[Allocator]] = Registry("allocator", "lorakit.searching.allocators")


def decides_later(name: str) -> RecipeError:
    """Of an allocator whose first decision is none to train by."""
    return RecipeError(
        f"allocator '{name}' decides during a training, not before it",
        key="search.method",
        valid=", ".join(other for other, kind in allocators.items() if kind.at_once),
        hint="lorakit train",
    )


def comes_before_training(search: SearchSection) -> bool:
    """Whether the recipe's search is one of its own, and no part of a training."""
    return search.method != "none" and allocators.get(search.method).before_training


def check_acts_in_training(kind: type[Allocator]) -> None:
    """RecipeError for an allocator that comes before the training."""
    if kind.before_training:
        within = [name for name, other in allocators.items() if not other.before_training]
        raise RecipeError(
            f"'{kind.name}' is no search during a training: it finds the recipe to train",
            key="search.method",
            valid=", ".join(["none", *within]),
            hint=f"lorakit search RECIPE --method {kind.name}",
        )
