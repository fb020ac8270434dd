"""How each method of ``continual`` has a task go on from the one before it, and which recipes that cannot hold for.

Each task is an ordinary run; what a method does is in its recipe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lorakit.adapters.deltas.attended import Attended
from lorakit.adapters.deltas.low_rank import LowRank
from lorakit.adapters.init import inits
from lorakit.adapters.method import methods, resolve
from lorakit.artifacts.experts import KEY as EXPERTS_KEY
from lorakit.artifacts.memory_file import MEMORY
from lorakit.artifacts.run import TASKS
from lorakit.backbone.quantised import MIXED
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import AUTO, AdapterSection, Recipe
from lorakit.recipe.sequence import (
    AM_LORA,
    APART,
    BY_CLASS,
    O_LORA,
    ONLINE_LORA,
    REPLAY,
    SEQUENCE,
    SETTINGS,
    LoadedSequence,
)
from lorakit.tasks.task import Task
from lorakit.training.update import Update, chosen_updates, no_single_class

RANK = "adapter.rank"
OF_THE_HEAD = ("head", "head_start", "readout")
"""Keys of ``model`` that a task may have of its own; the others are the backbone's, which is one."""


def going_on(loaded: LoadedRecipe, earlier: Sequence[Path], sequence: LoadedSequence) -> LoadedRecipe:
    """The recipe of a task that is learnt after the runs ``earlier``, in order."""
    settings, adapter = sequence.continual, loaded.recipe.adapter
    if settings.method in APART:
        return loaded
    if earlier:
        adapter = replace(adapter, start=str(earlier[-1]), start_head=False)
    if settings.method == REPLAY and earlier:
        adapter = with_update(adapter, REPLAY, memory=memory_of(loaded, earlier))
    elif settings.method == O_LORA and earlier:
        adapter = beside(adapter, len(earlier))
        adapter = with_update(
            adapter, O_LORA, orthogonality=settings.orthogonality, earlier=len(earlier) * rank_of(loaded)
        )
    elif settings.method == AM_LORA:
        adapter = replace(beside(adapter, len(earlier)), delta=Attended.name)
        of_delta = {"each": str(rank_of(loaded)), "activation": str(settings.activation)}
        adapter = replace(adapter, options=adapter.options | of_delta)
        adapter = with_update(adapter, AM_LORA, sparsity=settings.sparsity, earlier=len(earlier))
    elif settings.method == ONLINE_LORA:
        own = {name: getattr(settings, name) for name in SETTINGS[ONLINE_LORA]}
        adapter = with_update(beside(adapter, own["loras"] - 1), ONLINE_LORA, **own)
    found = replace(loaded, recipe=replace(loaded.recipe, adapter=adapter))
    many = 1 if adapter.rank == loaded.recipe.adapter.rank else (adapter.rank or 0) // rank_of(loaded)
    if many > 1:  # what is said of the rank is said of a number that nobody wrote
        place = f"{loaded.where(RANK)}, times {many} LoRAs with continual.method={settings.method}"
        found = replace(found, places=loaded.places | {RANK: place})
    return found


def memory_of(loaded: LoadedRecipe, earlier: Sequence[Path]) -> Path:
    """The file with what a task goes over again."""
    return earlier[-1].parent.parent / MEMORY / f"{len(earlier) + 1}-{loaded.name}.jsonl"


def with_update(adapter: AdapterSection, update: str, **options: object) -> AdapterSection:
    """The same with one more update, and its options."""
    own = methods.get(adapter.method)
    names = list(own.updates) if adapter.updates is None else adapter.updates
    given = adapter.update_options | {name: str(value) for name, value in options.items()}
    return replace(adapter, updates=[*names, update], update_options=given)


def rank_of(loaded: LoadedRecipe) -> int:
    """That of one task's LoRA."""
    rank = methods.get(loaded.recipe.adapter.method).fill(loaded.recipe.adapter).rank
    assert rank is not None
    return rank


def beside(adapter: AdapterSection, number: int) -> AdapterSection:
    """The same for a LoRA beside ``number`` others: the summed rank, and the alpha with which the scale stays."""
    filled = methods.get(adapter.method).fill(adapter)
    assert filled.rank is not None
    assert filled.alpha is not None
    factor = {"lora": number + 1, "rslora": math.sqrt(number + 1)}.get(resolve(adapter).scale, 1)
    return replace(adapter, rank=(number + 1) * filled.rank, alpha=filled.alpha * factor)


def check_recipes(sequence: LoadedSequence) -> None:
    """RecipeError where the recipes are not of one backbone and seed, or the method cannot go on from one to the next."""
    first = sequence.tasks[0]
    for loaded in sequence.tasks:
        problems = [*one_class_a_row(loaded), *one_backbone(first, loaded)]
        if sequence.continual.method not in APART:
            problems += [*one_adapter(first, loaded, sequence.continual.method)]
        if problems:
            raise loaded.locate(RecipeError(problems))


def in_their_turn(sequence: LoadedSequence) -> list[LoadedRecipe]:
    """The recipe of each task as it goes on from those before it, of runs that are not there yet: to be checked and counted."""
    runs = [Path(TASKS) / name for name in sequence.names]
    return [going_on(loaded, runs[:number], sequence) for number, loaded in enumerate(sequence.tasks)]


def one_class_a_row(loaded: LoadedRecipe) -> Iterator[Problem]:
    """What of the task is no class a row."""
    if found := no_single_class(loaded.recipe.task):
        what = f"of {loaded.name} has {found} a row, and a sequence is scored by accuracy"
        yield Problem(what, key="task.name", valid="tasks with one of several classes a row")


def one_backbone(first: LoadedRecipe, loaded: LoadedRecipe) -> Iterator[Problem]:
    """What of the frozen model, and of what all draw from, differs from the first task's."""
    ours, theirs = asdict(loaded.recipe.model), asdict(first.recipe.model)
    for name in ours:
        if name not in OF_THE_HEAD and ours[name] != theirs[name]:
            what = (
                f"is {ours[name]} for task {loaded.name} and {theirs[name]} for task {first.name}: the backbone is one"
            )
            yield Problem(what, key=f"model.{name}", valid="the same for all tasks")
    if ours["rope_scaling"] == AUTO and loaded.recipe.task.max_length != first.recipe.task.max_length:
        what = f"is auto, which goes by task.max_length, and that of {loaded.name} is not that of {first.name}: the backbone is one"
        yield Problem(what, key="model.rope_scaling", valid="a number, or the same task.max_length for all tasks")
    if loaded.recipe.run.seed != first.recipe.run.seed:
        what = f"is {loaded.recipe.run.seed} for task {loaded.name} and {first.recipe.run.seed} for task {first.name}"
        yield Problem(what, key="run.seed", valid="the same for all tasks", hint="--seed")


def one_adapter(first: LoadedRecipe, loaded: LoadedRecipe, method: str) -> Iterator[Problem]:
    """What keeps one adapter from going through all tasks."""
    recipe, why = loaded.recipe, f"with continual.method={method}"
    ours, theirs = asdict(recipe.adapter), asdict(first.recipe.adapter)
    for name in ours:
        if ours[name] != theirs[name]:
            what = f"is {ours[name]} for task {loaded.name} and {theirs[name]} for task {first.name}: {why} the adapter is one"
            yield Problem(what, key=f"adapter.{name}", valid="the same for all tasks")
    readout = recipe.model.readout
    if method in (REPLAY, ONLINE_LORA) and (readout == AUTO or readout != first.recipe.model.readout):
        yield Problem(
            f"is what a head reads: {why} the heads of all tasks read the same", key="model.readout", valid="one"
        )
    made, own = resolve(recipe.adapter), methods.get(recipe.adapter.method)
    if method == AM_LORA and (made.delta != LowRank.name or made.decomposition != "none"):
        what = f"'{recipe.adapter.method}' is more than B A: {why} LoRAs are weighed as they are"
        yield Problem(what, key="adapter.method", valid="lora, rslora or another of plain B A")
    elif method == AM_LORA and not (made.trains("A") and made.trains("B")):
        what = f"of '{recipe.adapter.method}' {made.trainable} alone trains: {why} whole LoRAs learn"
        yield Problem(what, key="adapter.method", valid="lora, rslora or another whose A and B train")
    if method in (own.updates if recipe.adapter.updates is None else recipe.adapter.updates):
        yield Problem(f"has '{method}', which comes by itself {why}", key="adapter.updates", valid="others")
    of_ranks = ("allocation", "shortcut_rank", "shortcut_alpha") if method in (O_LORA, AM_LORA, ONLINE_LORA) else ()
    for name in of_ranks:
        if getattr(recipe.adapter, name):
            yield Problem(
                f"is of one task: {why} ranks are those of several LoRAs", key=f"adapter.{name}", valid="null"
            )
    layers = "training.freeze_below"
    if recipe.training.freeze_below != first.recipe.training.freeze_below or recipe.training.freeze_below == AUTO:
        yield Problem(f"says which layers have adapters: {why} these are the same ones", key=layers, valid="one number")
    for key, held, valid in not_held(recipe):
        if held:
            yield Problem(f"{held} {why}", key=key, valid=valid)


def not_held(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Keys, what speaks against them where one adapter goes on from task to task, empty where nothing does, and what is valid."""
    adapter, init = recipe.adapter, inits.get(resolve(recipe.adapter).init)
    yield "adapter.start", "names a start, and each task starts from the one before it" * bool(adapter.start), "null"
    runs = "names finished runs, and each task starts from the one before it"
    yield EXPERTS_KEY, runs * bool(adapter.experts), "[]"
    full = methods.get(adapter.method).fill(adapter).in_full
    yield "adapter.in_full", "trains weights that are no adapter's, which all tasks share" * bool(full), "[]"
    rounds = f"'{init.name}' rounds the weights for the adapter that it starts: they would be others for every task"
    yield "adapter.init", rounds * init.quantises, "an init that leaves the weights alone"
    mixed = recipe.model.quantization == MIXED
    yield (
        "model.quantization",
        "chooses bits anew in every run, and the backbone is one" * mixed,
        "none, int8, nf4, int4",
    )
    fresh = next((kind.name for kind, _ in chosen_updates(recipe) if refuses_a_start(kind, recipe)), "")
    past = f"'{adapter.method}' with update '{fresh}' would write over what it kept of the task before"
    yield "adapter.method", past * bool(fresh), "a method without it, or continual.method=separate"
    searched = recipe.search.method != "none"
    yield "search.method", "takes sites out, which the next task would start anew" * searched, "none"
    yield (
        "training.select",
        "takes other weights than the next task starts from" * (recipe.training.select != "last"),
        "last",
    )


def refuses_a_start(kind: type[Update], recipe: Recipe) -> bool:
    """Whether the update cannot go on from the adapter of another run."""
    begun = replace(recipe, adapter=replace(recipe.adapter, start="a run"))
    return any(problem.key == "adapter.start" for problem in kind.refusals(begun, resolve(recipe.adapter)))


def check_labels(sequence: LoadedSequence, known_tasks: Sequence[Task]) -> None:
    """RecipeError for labels of two tasks that differ in their writing alone: they would be two where the task is not known."""
    known: dict[str, tuple[str, str]] = {}
    for loaded, task in zip(sequence.tasks, known_tasks, strict=True):
        for label in task.labels:
            name, owner = known.setdefault(" ".join(label.casefold().split()), (label, loaded.name))
            if name != label:
                what = f"the label '{label}' of task {loaded.name} and '{name}' of task {owner} differ in their writing alone"
                valid = "one way to write it, which makes them one label, or two names"
                raise RecipeError(what, where=sequence.where, key=SEQUENCE, valid=valid)


def check_memory(sequence: LoadedSequence, known_tasks: Sequence[Task]) -> None:
    """RecipeError where a memory by class has less than a row for each class that is learnt before the last task."""
    settings, classes = sequence.continual, sum(len(task.labels) for task in known_tasks[:-1])
    if settings.memory is not None and settings.memory_by == BY_CLASS and settings.memory < classes:
        what = f"{settings.memory} rows are less than one of each of the {classes} classes that are learnt before the last task"
        raise RecipeError(what, where=sequence.where, key="continual.memory", valid=f"{classes} or more")


def merged_labels(learnt: Sequence[Task]) -> list[str]:
    """The labels of all tasks, each once, in the order of the tasks."""
    return [*dict.fromkeys(label for task in learnt for label in task.labels)]


def settings_of(sequence: LoadedSequence) -> dict[str, Any]:
    """The method, and those of its settings that are not left open."""
    return {name: value for name, value in asdict(sequence.continual).items() if value is not None}
