"""What goes on during training beside the optimiser's steps: a hook that knows the model, and may change the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import AdaptedModel, TrainedTensor
from lorakit.adapters.json_tensors import pack, unpack
from lorakit.adapters.method import methods
from lorakit.adapters.options import Option, read_known
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.load import Backbone
from lorakit.errors import Problem, RecipeError, nearest
from lorakit.recipe.schema import Recipe, TaskSection
from lorakit.registry import Registry
from lorakit.searching.allocator import Allocator
from lorakit.tasks.batching import Batch, SummedLoss
from lorakit.tasks.task import tasks
from lorakit.training.hooks import Hook
from lorakit.training.objective import Objective
from lorakit.training.schedule import Schedule, make_schedule


@dataclass(frozen=True)
class UpdateContext:
    """What an update may use.

    draw: number -> that many batches of training rows, from the update's own stream; of the rows that are set aside, where it sets some
    aside; generator: that stream; options: the recipe's
    ``adapter.update_options`` that are this update's, as their types; optimizer: for its state; fresh: whether the training begins here,
    and not at a checkpoint that is loaded afterwards.
    """

    adapted: AdaptedModel
    recipe: Recipe
    schedule: Schedule
    objective: Objective
    optimizer: torch.optim.Optimizer
    draw: Callable[[int], list[Batch]]
    generator: torch.Generator
    options: Mapping[str, Any]
    fresh: bool = True


class Update(Hook):
    """A training update; override the points of ``Hook`` it acts at. Its state goes into checkpoints.

    name: what recipes call it; summary: a line; source: paper and section; options: its own, whose values an instance has as
    ``settings``; sees_tokens: whether it reaches into what modules compute for each token; fixes_entries: whether it decides that
    single entries of tensors are zero, or stay as they are, which a mean over steps or new factors would undo; needs_whole_weights: whether
    it looks at the frozen weights, which then are not sharded. What it decides must come out the same on every process: from gradients
    after the backward pass, which are the same everywhere, and its own stream.
    Raises RecipeError where the recipe's adapters or its search leave it nothing to do.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    steady = False
    sees_tokens: ClassVar[bool] = False
    fixes_entries: ClassVar[bool] = False
    needs_whole_weights: ClassVar[bool] = False
    grows_start: ClassVar[bool] = False
    of_sequences: ClassVar[bool] = False

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """What of the recipe, whose adapters are ``spec``, it does not go with, as far as that can be told before anything is loaded."""
        return []

    @classmethod
    def check_model(cls, backbone: Backbone) -> None:
        """Raise RecipeError where this model has no place for it: asked before anything is attached, by a plan too."""

    def __init__(self, context: UpdateContext):
        self.context = context
        self.settings = self.settings_from(context.options)

    @classmethod
    def settings_from(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every option."""
        return {name: given.get(name, option.default) for name, option in cls.options.items()}

    @classmethod
    def aside(cls, settings: Mapping[str, Any]) -> float:
        """The share of the training rows that no step sees, because the update has them for itself."""
        return 0.0

    @classmethod
    def passes_batches(cls, settings: Mapping[str, Any]) -> bool:
        """Whether it passes whole batches that it draws, forward and back, on every process."""
        return cls.passes_a_step(settings) > 0

    @classmethod
    def passes_a_step(cls, settings: Mapping[str, Any]) -> int:
        """How many of them in every step."""
        return 0

    @classmethod
    def times_a_row(cls, settings: Mapping[str, Any]) -> int:
        """How often a row is in one pass of a step."""
        return 1

    @classmethod
    def step_bytes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> int:
        """What it makes for a moment before the optimiser steps, when what autograd kept is gone."""
        return 0

    @classmethod
    def moves_moments(cls, settings: Mapping[str, Any]) -> bool:
        """Whether it changes entries of Adam's moments; deleting the state of whole tensors is no such thing."""
        return False

    @classmethod
    def untrained(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> dict[str, TrainedTensor]:
        """Name -> tensors of the adapters that it never lets train."""
        return {}

    @classmethod
    def holds(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> int:
        """How many entries of the adapters' tensors stay as they are, while others of the same tensors train. Raises as ``notes``."""
        return 0

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """What to know before training. Raises RecipeError where it has nothing to work on in this model."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Where the update's stream stands; with what a subclass remembers."""
        return {"stream": pack(self.context.generator.get_state())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.context.generator.set_state(unpack(state["stream"]))

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss to train on, given the one so far; itself by default."""
        return loss


updates: Registry[type[Update]] = Registry("training update", "lorakit.training.updates")


def needs_delta(update: str, delta: str, spec: AdapterSpec) -> list[Problem]:
    """The refusal of an update whose state is in ``delta``'s tensors, where the adapters are made of another."""
    if spec.delta == delta:
        return []
    what = f"update '{update}' keeps what it needs in delta '{delta}', and these adapters are made of '{spec.delta}'"
    return [Problem(what, key="adapter.delta", valid=delta, hint=f"adapter.delta={delta}; or adapter.updates=[]")]


def no_single_class(section: TaskSection) -> str:
    """What a row of the task has in place of one of several classes; empty where it has one."""
    known = tasks.get(section.name) if section.name in tasks else None
    if section.regression or (known and known.regression):
        return "a number"
    return "several labels" if section.multi_label or (known and known.multi_label) else ""


def starts_fresh(update: str, recipe: Recipe) -> list[Problem]:
    """The refusal of an update that would write over what it left in another run's adapter."""
    if not recipe.adapter.start:
        return []
    what = f"update '{update}' would write over what it has kept in the adapter that this one starts from"
    return [
        Problem(
            what, key="adapter.start", valid="null with it", hint="`lorakit merge`, and the merged folder as model.name"
        )
    ]


def summed_loss(objective: Objective, changes: Sequence[Update | Allocator]) -> SummedLoss:
    """The loss to train on: the task's, then what each update, or the search, makes of it, in order."""
    loss: SummedLoss = objective.summed
    for change in changes:
        loss = change.around_loss(loss)
    return loss


def chosen_updates(recipe: Recipe) -> list[tuple[type[Update], dict[str, Any]]]:
    """The recipe's updates, the method's own where it names none, each with those of its options that the recipe gives.

    Raises RecipeError for options that none of them has or that cannot be used.
    """
    named, given = recipe.adapter.updates, recipe.adapter.update_options
    method = methods.get(recipe.adapter.method)
    names = list(method.updates) if named is None else named
    kinds = [updates.get(name) for name in names]
    known = {name: option for kind in kinds for name, option in kind.options.items()}
    problems: list[Problem] = []
    for name in given:
        if name not in known:
            what = f"none of the updates {', '.join(names)} has an option '{name}'" if names else "there is no update"
            valid, hint = ", ".join(known) or "they have none", nearest(name, known)
            problems.append(Problem(what, key="adapter.update_options", valid=valid, hint=hint))
    read: list[tuple[type[Update], dict[str, Any]]] = []
    for kind in kinds:
        own = dict(method.update_options) if kind.name in method.updates else {}
        values, wrong = read_known(kind.options, own | dict(given), "adapter.update_options")
        problems += wrong
        read.append((kind, values))
    if problems:
        raise RecipeError(problems)
    return read


def rows_aside(recipe: Recipe, rows: int) -> int:
    """How many of the training rows the recipe's updates set aside. Raises RecipeError where none would be left to steps."""
    share = max((kind.aside(kind.settings_from(given)) for kind, given in chosen_updates(recipe)), default=0.0)
    aside = math.ceil(round(share * rows, 9))
    if 0 < rows <= aside:
        what = f"a share of {share:g} of {rows} training rows is all of them: none is left for steps"
        raise RecipeError(what, key="adapter.update_options", hint="a smaller share, or more rows")
    return aside


def schedule_beside(recipe: Recipe, rows: int) -> Schedule:
    """The schedule of training ``rows`` rows but those that updates set aside. Raises RecipeError for one that cannot be kept."""
    return make_schedule(recipe, rows - rows_aside(recipe, rows))


def never_trained(recipe: Recipe, adapted: AdaptedModel) -> Counter[str]:
    """Site that is on -> how many parameters of its adapter the recipe's updates never let train; 0 for others."""
    never: dict[str, TrainedTensor] = {}
    for kind, given in chosen_updates(recipe):
        never |= kind.untrained(adapted, kind.settings_from(given))
    found, on = Counter[str](), set(adapted.on)
    for tensor in never.values():
        if tensor.site in on:
            found[tensor.site] += tensor.parameter.numel()
    return found


def held_entries(recipe: Recipe, adapted: AdaptedModel) -> int:
    """How many entries of the adapters' tensors the recipe's updates hold while others of the same tensors train."""
    return sum(kind.holds(adapted, kind.settings_from(given)) for kind, given in chosen_updates(recipe))


def update_notes(recipe: Recipe, adapted: AdaptedModel) -> list[str]:
    """What updates say before training, and how many of the adapters' parameters they never let train."""
    told = []
    for kind, given in chosen_updates(recipe):
        told += kind.notes(adapted, kind.settings_from(given))
        if held := kind.holds(adapted, kind.settings_from(given)):
            told.append(f"update '{kind.name}': {held:,} of the adapters' parameters are held as they are")
        if never := kind.untrained(adapted, kind.settings_from(given)):
            count, sites = sum(t.parameter.numel() for t in never.values()), {t.site for t in never.values()}
            told.append(
                f"update '{kind.name}': {count:,} of the adapters' parameters, on {len(sites)} sites, never train"
            )
    return told
