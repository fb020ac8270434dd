"""``lorakit train`` of a sequence: each task becomes a run, which goes on from the one before it as the method says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.memory_file import read_memory, write_memory
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, RunError, command_line
from lorakit.recipe.keys import key_values
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.sequence import REPLAY, LoadedSequence
from lorakit.recipe.values import written
from lorakit.result import Result
from lorakit.tasks.task import TaskData
from lorakit.training.hooks import Hook
from lorakit.training.optim import check_suits
from lorakit.training.schedule import Schedule
from lorakit.training.update import schedule_beside
from lorakit.workflow.accelerator import check_optimizer_runs, refuse_elsewhere, this_process
from lorakit.workflow.parts import Parts, load_data
from lorakit.workflow.rehearse import rehearse
from lorakit.workflow.resume import can_go_on
from lorakit.workflow.sequences.folder import SequenceFolder, begin, begun, check_same_rows
from lorakit.workflow.sequences.memory import memory_rows
from lorakit.workflow.sequences.methods import (
    check_labels,
    check_memory,
    check_recipes,
    going_on,
    in_their_turn,
    memory_of,
)
from lorakit.workflow.sequences.opening import AnySequence, opened
from lorakit.workflow.sequences.score_sequence import SequenceScores, score_sequence, write_final
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.train import train
from lorakit.workflow.unfinished import FREE_ON_RESUME

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SequenceResult(Result):
    """What a sequence came to.

    Attributes:
        run_dir: its folder, to evaluate and report on.
        runs: those of the tasks, as each was when it was learnt.
        final: the runs to use, one for each task in order, as the last task left them; of separate tasks they are the same.
        scores: the matrix of accuracies, and what it says; also in scores.json.
    """

    run_dir: Path
    runs: list[Path]
    final: list[Path]
    scores: SequenceScores


def train_sequence(
    recipe: AnySequence,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[Hook] = (),
) -> SequenceResult:
    """Learn the tasks of a recipe one after the other on one frozen backbone; or go on with what was stopped.

    Args:
        recipe: a YAML file with the key ``sequence``, or the folder of a sequence.
        overrides: ``KEY=VALUE`` each, for all tasks; ``continual.KEY=VALUE`` too.
        run_dir: the folder of the whole; ``runs/NAME-SEED`` by default.
        resume: go on with the folder that ``recipe`` or ``run_dir`` names, or the newest unfinished one of this name and seed. It then
            ends as if it had never been stopped.
        hooks: objects whose methods the loop of every task calls by name.

    Returns:
        The runs, and the matrix of accuracies of each task after each task.

    Raises:
        RecipeError: for a wrong recipe, for tasks whose accuracies make no matrix, and for keys with which one adapter cannot go on from
            task to task; everything is checked before the first step.
        UsageError: for a folder that holds something else, or that cannot be gone on with.
        DataError: for data that cannot be used, or that changed since the sequence was begun.
        RunError: where what is there of it is damaged.
        Interrupted: after a polite stop; the same call with ``resume=True`` goes on.

    Example:
        >>> learnt = lorakit.train_sequence("topics.yaml", ["continual.method=sequential"])    # doctest: +SKIP
        >>> learnt.scores.known.average, learnt.scores.known.forgetting                        # doctest: +SKIP
    """
    refuse_elsewhere()  # between the tasks rows are predicted, by whole models
    sequence, place = opened(recipe, overrides), None if run_dir is None else Path(run_dir)
    data = checked_data(sequence)
    if resume:
        folder = begun(sequence, place)
        check_same_rows(folder, data)
    else:
        for own, loaded, rows in zip(sequence.tasks[1:], in_their_turn(sequence)[1:], data[1:], strict=True):
            rehearse_own(own, *put_together(loaded, rows))  # the first one's turn comes at once
        folder = begin(sequence, data, place)
    for number in range(len(data)):
        learn(folder, sequence, number, data, hooks)
    write_final(folder)
    scores = score_sequence(folder)
    scores.write(folder.scores)
    return SequenceResult(folder.path, [run.path for run in folder.runs], folder.final, scores)


def checked_data(sequence: LoadedSequence) -> list[TaskData]:
    """The rows of all tasks. RecipeError where the tasks, or their recipes, make no sequence."""
    check_recipes(sequence)
    data = []
    for loaded in sequence.tasks:
        with loaded.locating_errors():
            data.append(load_data(loaded.recipe))
    check_labels(sequence, [each.task for each in data])
    check_memory(sequence, [each.task for each in data])
    return data


def put_together(loaded: LoadedRecipe, rows: TaskData) -> tuple[Parts, AdaptedModel, Schedule]:
    """A task's adapted model and its steps, by its recipe as it goes on from earlier tasks. RecipeError for what does not go together."""
    parts = assemble(loaded, rows)
    with loaded.locating_errors():
        schedule = schedule_beside(loaded.recipe, len(rows.splits["train"]))
        check_optimizer_runs(loaded.recipe)
        adapted = adapt(parts, statistics=None)
        check_suits(adapted, loaded.recipe.training)
        return parts, adapted, schedule


def rehearse_own(own: LoadedRecipe, parts: Parts, adapted: AdaptedModel, schedule: Schedule) -> None:
    """``rehearse`` by a task's own recipe: what the method adds reads earlier tasks, which are yet to be learnt."""
    with own.locating_errors():
        rehearse(replace(parts, recipe=own.recipe), adapted, schedule)


def learn(
    folder: SequenceFolder, sequence: LoadedSequence, number: int, data: Sequence[TaskData], hooks: Sequence[Hook]
) -> None:
    """One task, from where it stands; data: of all tasks."""
    run, name, total = folder.runs[number], sequence.names[number], len(sequence.names)
    if run.finished:
        return
    logger.info("task %d of %d: %s", number + 1, total, name)
    earlier = [each.path for each in folder.runs[:number]]
    resume = can_go_on(run)
    remember(sequence, number, earlier, data[:number], again=resume)
    own = sequence.tasks[number]
    loaded = as_it_was_begun(run, own, earlier) if resume else going_on(own, earlier, sequence)
    try:
        train(loaded, run_dir=run.path, resume=resume, data=data[number], hooks=hooks)
    except Interrupted as stopped:
        what = f"task {number + 1} of {total}, {name}, {stopped.problems[0].what}"
        raise Interrupted(what, hint=command_line("train", folder.path, "--resume")) from None


def remember(
    sequence: LoadedSequence, number: int, earlier: Sequence[Path], data: Sequence[TaskData], *, again: bool
) -> None:
    """Write down the rows of earlier tasks that a task is to go over again, where the method has it do so.

    again: it has begun to. RunError then where the rows that are written down are others.
    """
    settings = sequence.continual
    if settings.method == REPLAY and earlier and this_process().is_main_process:
        names = [path.name for path in earlier]
        rows = memory_rows(names, data, settings.memory or 0, settings.memory_by or "", sequence.seed)
        place = memory_of(sequence.tasks[number], earlier)
        if not again:
            write_memory(place, rows)
        elif [row for own in read_memory(place).values() for row in own] != rows:
            raise RunError(
                "holds other rows than the task was begun with", where=str(place), hint="a copy of the folder"
            )
    this_process().wait_for_everyone()


def as_it_was_begun(run: Run, given: LoadedRecipe, earlier: Sequence[Path]) -> LoadedRecipe:
    """The run's own recipe, with those of the given values that may be other ones now, and its memory where the folder is now."""
    values = key_values(given.recipe)
    free = [key for key in FREE_ON_RESUME if key not in ("run.name", "run.folder")]
    loaded = load_recipe(run.path, [f"{key}={written(values[key])}" for key in free])
    adapter = loaded.recipe.adapter
    if "memory" not in adapter.update_options:
        return loaded
    options = adapter.update_options | {"memory": str(memory_of(given, earlier))}
    return replace(loaded, recipe=replace(loaded.recipe, adapter=replace(adapter, update_options=options)))
