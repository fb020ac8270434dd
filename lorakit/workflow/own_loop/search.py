"""``lorakit.Search``: an allocator of `lorakit train` in a loop of your own, in the Trainer of transformers, or in Lightning's.

search = lorakit.Search("heterolora", adapted, budget=0.25, every=0.2, rows=rows, collate=collate)
search.begin(optimizer, steps=len(loader) * epochs, steps_per_epoch=len(loader))
for batch in ...:
    search.before_step()            a tick, where one is due: sites go on and off
    loss.backward()
    search.after_backward()         before gradients are clipped
    optimizer.step()
    search.after_step()             before they are forgotten
    optimizer.zero_grad()
search.end()
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.counting import costs
from lorakit.backbone.trained_head import Outputs
from lorakit.errors import RecipeError, RunError, UsageError
from lorakit.searching.allocator import Allocator, SearchContext, allocators, check_acts_in_training
from lorakit.training.hooks import TrainState
from lorakit.training.optim import moments_of
from lorakit.training.schedule import search_ticks
from lorakit.training.search_hook import SearchHook
from lorakit.training.seeds import generator
from lorakit.workflow.own_loop.adapted import Adapted
from lorakit.workflow.own_loop.passes import LABELS, OwnBatch, OwnLoss, Passes, models_own_loss, rows_of
from lorakit.workflow.own_loop.rows import Collate, OwnRows, loader_of
from lorakit.workflow.own_loop.settings import read_settings, said_of
from lorakit.workflow.setup import check_units
from lorakit.workflow.sites import choose_budget

if TYPE_CHECKING:
    from transformers import TrainerCallback

logger = logging.getLogger(__name__)

CALL = "lorakit.Search"
EVERY_STEP = "before_step, after_backward and after_step, once each in every optimiser step"
LEFT_OUT = 8
"""Batches in a row that a loop may leave out after ``before_step``: for a loss that is not finite, or memory that did not do."""


class Search:
    """Who gets the budget, decided again at every tick of a training that you write.

    On the same rows, model, optimiser and seed the choices are those of `lorakit train`.

    Args:
        method: an allocator of `lorakit list methods`, such as heterolora or adalora.
        adapted: what ``lorakit.adapt`` returned.
        budget: adapter parameters that may train: a whole number of them, or below 1 a share of all sites'; the allocator's
            own share by default (0.25 for heterolora).
        every: epochs between ticks, from step 0.
        rows: the training rows that are scored, by number: a list or a map-style data set. A callback takes its trainer's.
        collate: list of rows -> batch, a mapping from names to tensors (rows, ...); ``default_data_collator`` by default.
        batch_size: rows of a batch that is scored; a callback takes its trainer's.
        loss: (model, batch) -> mean loss of the rows, as your loop trains on it; the model's own by default.
        seed: of the search's stream; that of ``adapted`` by default.
        settings: any other key of a recipe's ``search:``, such as ``proxy``, ``batches``, ``scoring`` or ``options``.

    Returns:
        A search that waits for ``begin``, which a callback calls by itself.

    Raises:
        RecipeError: for wrong settings, and for adapters that the search cannot steer.
        UsageError: where the adapters are folded in.

    Example:
        >>> search = lorakit.Search("heterolora", adapted, budget=0.25, every=0.5, rows=rows)     # doctest: +SKIP
        >>> Trainer(adapted.model, arguments, callbacks=[search.callback()]).train()              # doctest: +SKIP
    """

    def __init__(
        self,
        method: str,
        adapted: Adapted,
        *,
        budget: float | None = None,
        every: float = 0.2,
        rows: OwnRows | None = None,
        collate: Collate | None = None,
        batch_size: int | None = None,
        loss: OwnLoss = models_own_loss,
        seed: int | None = None,
        **settings: Any,
    ):
        adapted.check_there()
        if isinstance(budget, bool) or not (budget is None or isinstance(budget, Real)):
            raise UsageError(f"a budget is a number, and this is a {type(budget).__name__}", where=CALL)
        stated: dict[str, Any] = {}
        if budget is not None:
            stated = {"parameters": int(budget)} if isinstance(budget, Integral) else {"enable": float(budget)}
        said = {"method": method, "every": every, **stated, **settings}
        self.recipe = read_settings(CALL, said_of(adapted.section), said)
        section, inside = self.recipe.search, adapted.inside
        if section.method == "none":
            raise RecipeError("is no search", where=CALL, key="search.method", valid=", ".join(allocators.names()))
        check_acts_in_training(allocators.get(method))
        if problems := conflicts_with_search(adapted.linear, section):
            raise RecipeError(problems)
        check_units(method, adapted.linear.delta, inside.sites)
        self.adapted = adapted
        axes = adapted.linear, adapted.shortcut, adapted.ranks, adapted.options
        self.budget = choose_budget(self.recipe, inside.sites, *axes)
        self.costs = costs(inside.sites, *axes)
        self.rows, self.collate, self.batch_size = rows, collate, batch_size
        self.passes = Passes(loss)
        self.seed = adapted.seed if seed is None else seed
        self.timeline: list[dict[str, Any]] = []
        """A record of every tick, as of a run's timeline.jsonl (``Tick``)."""
        self.hook: SearchHook | None = None
        self.begun = 0  # how often the step that goes on has begun; 0 between two steps
        self.heard = False  # whether its gradients were there
        self.rates: list[float] = []  # of the optimiser's groups, where they are lowered for this step alone

    def begin(self, optimizer: torch.optim.Optimizer, *, steps: int, steps_per_epoch: int) -> None:
        """Before the first step, and before ``load_state_dict`` where a training goes on. All sites are on then.

        Args:
            optimizer: the one that steps, for Adam's moments and for learning rates; every trained tensor is in it.
            steps: optimiser steps of the whole training.
            steps_per_epoch: optimiser steps of one epoch.

        Raises:
            RecipeError: where no tick falls into so many steps.
            UsageError: for an optimiser that was made before the adapters were, and for rows that cannot be drawn.
        """
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [tensor.name for tensor in self.adapted.trained() if id(tensor.parameter) not in known]
        if missing:
            what = f"the optimiser does not have {missing[0]}" + (
                f" and {len(missing) - 1} others" if missing[1:] else ""
            )
            raise UsageError(
                what, where=CALL, hint="make it after lorakit.adapt: torch.optim.AdamW(adapted.groups(lr=5e-4))"
            )
        section, inside = self.recipe.search, self.adapted.inside
        loader = loader_of(self.rows, self.collate, self.batch_size or self.recipe.training.batch_size)
        self.state = TrainState(total_steps=steps, steps_per_epoch=steps_per_epoch)
        self.ticks = search_ticks(section, steps_per_epoch, steps)
        context = SearchContext(
            adapted=inside,
            search=section,
            budget=self.budget,
            costs=self.costs,
            draw=loader.first if section.data == "first" else loader.sample,
            loss=self.passes.mean,
            logits=self.passes.logits,
            regression=Outputs.of(getattr(inside.model, "config", None)).number == 1,
            generator=generator(self.seed, "search"),
            total_steps=steps,
            ticks=self.ticks,
            moments=partial(moments, optimizer),
        )
        self.optimizer = optimizer
        inside.switch(inside.adapters)
        allocator: Allocator = allocators.get(section.method)(context)
        self.hook = SearchHook(allocator, self, writes=True, optimizer=optimizer)
        self.begun, self.heard = 0, False
        self.timeline.clear()

    @property
    def acting(self) -> SearchHook:
        """What acts. UsageError before ``begin``."""
        if self.hook is None:
            raise UsageError(
                "the search has not begun", where=CALL, hint="begin(optimizer, steps=..., steps_per_epoch=...)"
            )
        return self.hook

    @property
    def allocator(self) -> Allocator:
        """Who decides."""
        return self.acting.allocator

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Keep a tick's record."""
        self.timeline.append(record)

    def before_step(self) -> bool:
        """Before a step's first forward pass: score, allocate and switch, where a tick is due; whether one was.

        Sites that go off lose their gradients, so that no optimiser moves them. RunError where the budget does not hold; UsageError
        where the steps before were not told of. A step that was left out begins anew, without a second tick.
        """
        hook, due = self.acting, self.state.step in self.ticks and not self.begun
        if self.heard or self.begun > LEFT_OUT:
            raise UsageError(
                f"step {self.state.step} begins again, and after_step never came", where=CALL, hint=EVERY_STEP
            )
        self.begun += 1
        if self.begun > 1:
            return False
        if due:
            hook.on_tick(self.state)
            on = set(self.adapted.inside.on)
            for tensor in self.adapted.inside.trained():
                if tensor.site is not None and tensor.site not in on:
                    tensor.parameter.grad = None
        hook.before_forward(self.state)
        return due

    def loss(self, batch: OwnBatch) -> torch.Tensor:
        """The mean loss of a batch (rows, ...) to train on, with what the search adds to it: AdaLoRA's orthogonality, SoRA's gates.

        In place of your own forward pass, where ``changes_loss`` says that the search adds something.
        """
        summed = self.allocator.around_loss(self.passes.summed)
        if LABELS not in batch:
            raise UsageError(f"a batch to train on has {LABELS}, and this one has {', '.join(batch)}", where=CALL)
        return summed(self.adapted.model, batch) / rows_of(batch)

    @property
    def changes_loss(self) -> bool:
        """Whether steps must train on ``loss``."""
        return type(self.allocator).around_loss is not Allocator.around_loss

    def after_backward(self) -> None:
        """The gradients of the whole step are there; call it before they are clipped. UsageError outside a step."""
        if not self.begun:
            raise UsageError("before_step was not called before after_backward", where=CALL, hint=EVERY_STEP)
        self.heard = True
        self.acting.after_backward(self.state)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.acting.before_optimizer_step(self.state)
        self.rates = rates if rates != [group["lr"] for group in self.optimizer.param_groups] else []

    def after_step(self) -> None:
        """The optimiser has stepped; call it before the schedule does, and while the gradients are there.

        UsageError where ``before_step`` or ``after_backward`` did not come.
        """
        if not self.heard:
            lacking = "after_backward" if self.begun else "before_step"
            raise UsageError(f"{lacking} was not called before after_step", where=CALL, hint=EVERY_STEP)
        self.begun, self.heard = 0, False
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=False):
            group["lr"] = rate
        self.state.step += 1
        self.acting.after_step(self.state)

    def end(self) -> None:
        """After the last step: leave a model that needs no search. What of the training did not come is said.

        RunError where the search never acted; UsageError where no step was told to it.
        """
        hook, state = self.acting, self.state
        if not state.step:
            raise UsageError("the training ends, and no step was told to the search", where=CALL, hint=EVERY_STEP)
        hook.on_train_end(state)
        came = sum(tick < state.step for tick in self.ticks)
        if came < len(self.ticks) or not hook.settled(state) or state.step > state.total_steps:
            what = "the training had %d steps and was to have %d: of %d ticks %d came, and %s adapter parameters are on, of a budget of %s"
            on = self.adapted.inside.adapter_parameters()
            numbers = state.step, state.total_steps, len(self.ticks), came, f"{on:,}", f"{self.budget.parameters:,}"
            logger.warning(what, *numbers)

    def state_dict(self) -> dict[str, Any]:
        """All that the search needs to go on, ready for JSON; the adapters' tensors are the model's own state."""
        return {"step": self.state.step, "search": self.acting.state_dict(), "timeline": list(self.timeline)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``: after ``begin``, and after the model's tensors were loaded."""
        self.acting.load_state_dict(state["search"])
        self.state.step = state["step"]
        self.timeline[:] = state["timeline"]

    def callback(self) -> TrainerCallback:
        """For ``transformers.Trainer(model=adapted.model, callbacks=[search.callback()])``: it begins, ticks and ends by itself.

        Rows, collation and batch size are the Trainer's where none are given. Each checkpoint gets the adapter (``adapter/``, for
        ``lorakit.attach_saved``) and the search's state, from which a resumed training goes on.

        Raises:
            UsageError: at the beginning of the training, for what the Trainer would do otherwise than `lorakit train`: a loss that the
                search changes, gradients that it sees clipped (``max_grad_norm``), ``load_best_model_at_end``.
        """
        from lorakit.workflow.own_loop.trainer_callback import SearchCallback

        return SearchCallback(self)

    def lightning_callback(self) -> Any:
        """For ``lightning.Trainer(callbacks=[search.lightning_callback()])`` and a module that trains ``adapted.model``.

        Rows, collation and batch size are those of the training data loader where none are given. The search's state is in Lightning's
        checkpoints. ``Adapted.save`` writes the adapter.

        Raises:
            UsageError: where Lightning is not installed; at the beginning of the training, for a loss or rates that the search changes,
                and for several optimisers.
        """
        if importlib.util.find_spec("lightning") is None:
            raise UsageError(
                "needs Lightning, which is not installed", where=CALL, hint="pip install 'lorakit[lightning]'"
            )
        from lorakit.workflow.own_loop.lightning_callback import callback_of

        return callback_of(self)

    def take_over(self, loader: Any, batch_size: int | None, autocast: torch.dtype | None) -> None:
        """Rows, collation and batch size of a trainer's data loader, where none are given, and its precision.

        UsageError where the loader's batches have no size of their own.
        """
        if self.rows is None:
            self.rows, self.collate = loader.dataset, self.collate or loader.collate_fn
        self.batch_size = self.batch_size or batch_size
        if self.batch_size is None:
            raise UsageError("the data loader does not say how many rows a batch has", where=CALL, hint="batch_size=N")
        self.passes = replace(self.passes, autocast=autocast)

    def check_callback(self, *, clipped: bool, scheduled: bool) -> None:
        """UsageError for what a callback cannot do for this search.

        clipped: whether gradients are clipped when it sees them; scheduled: whether the schedule has stepped when it is told of a step.
        """
        kind, name = type(self.allocator), self.recipe.search.method
        own = "a loop of your own, or lorakit train"
        if self.changes_loss:
            raise UsageError(f"'{name}' adds to the loss, and a callback cannot", hint=f"search.loss(batch) in {own}")
        looks = kind.after_backward is not Allocator.after_backward
        if name == "heterolora":
            looks = self.recipe.search.scoring == "streaming"
        if looks and clipped:
            what = (
                f"'{name}' looks at the gradients of training steps, and they are clipped before a callback sees them"
            )
            raise UsageError(what, hint=f"max_grad_norm=0; or {own}")
        if scheduled and kind.rate is not Allocator.rate:
            raise UsageError(
                f"'{name}' lowers the rates of single steps, and a callback here is told too late", hint=own
            )


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Iterable[torch.Tensor]:
    """Adam's moments of a parameter. RunError for an optimiser that keeps others, which the search could not change with the tensor."""
    found = moments_of(optimizer, parameter)
    if not found and optimizer.state.get(parameter):
        what = f"the search changes Adam's moments with what it changes, and {type(optimizer).__name__} keeps none of a tensor's shape"
        raise RunError(what, where=CALL, hint="torch.optim.AdamW, or the search's option that leaves moments alone")
    return found
