"""``lorakit plan`` of a sequence: its tasks, and what each trains and leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.recipe.sequence import APART
from lorakit.result import Result
from lorakit.training.update import held_entries, update_notes
from lorakit.workflow.plan import head_notes
from lorakit.workflow.sequences.methods import in_their_turn, merged_labels, settings_of
from lorakit.workflow.sequences.opening import AnySequence, opened
from lorakit.workflow.sequences.train_sequence import checked_data, put_together, rehearse_own


@dataclass(frozen=True)
class PlannedTask(Result):
    """One task of a sequence.

    Attributes:
        name: of the task.
        labels: those of its head.
        rows: training rows.
        steps: optimiser steps.
        trained: adapter parameters that train while it is learnt.
        head: parameters of its head.
        kept: of all adapters and heads that are kept once it is learnt.
    """

    name: str
    labels: list[str]
    rows: int
    steps: int
    trained: int
    head: int
    kept: int


@dataclass(frozen=True)
class SequencePlan(Result):
    """What learning a sequence would be.

    Attributes:
        continual: the method, and its settings.
        tasks: in the order in which they are learnt.
        labels: of all tasks, each name once.
        steps: of all tasks.
        notes: what to know before starting.
    """

    continual: dict[str, Any]
    tasks: list[PlannedTask]
    labels: list[str]
    steps: int
    notes: list[str]


def plan_sequence(recipe: AnySequence, overrides: Sequence[str] = ()) -> SequencePlan:
    """Work a sequence out on its real model and data; nothing is trained or written.

    Args:
        recipe: a YAML file with the key ``sequence``, or the folder of a sequence.
        overrides: ``KEY=VALUE`` each, for all tasks; ``continual.KEY=VALUE`` too.

    Returns:
        Each task's labels, rows, steps and parameters.

    Raises:
        RecipeError: as ``train_sequence``; everything that can be told before training.
        DataError: for data that cannot be used.

    Example:
        >>> lorakit.plan_sequence("topics.yaml").tasks[0].trained              # doctest: +SKIP
    """
    sequence = opened(recipe, overrides)
    data = checked_data(sequence)
    method = sequence.continual.method
    tasks: list[PlannedTask] = []
    notes: list[str] = []
    adapters = heads = 0
    for own, loaded, rows in zip(sequence.tasks, in_their_turn(sequence), data, strict=True):
        parts, adapted, schedule = put_together(loaded, rows)
        with loaded.locating_errors():
            held = held_entries(loaded.recipe, adapted)
            told = [*loaded.told, f"data: {rows.origin}", *head_notes(parts, schedule)]
            told += update_notes(loaded.recipe, adapted)
        carried = adapted.adapter_parameters()
        adapters = adapters + carried if method in APART else carried
        heads += adapted.head_parameters()
        tasks.append(
            PlannedTask(
                name=loaded.name,
                labels=[*rows.task.labels],
                rows=schedule.rows,
                steps=schedule.total_steps,
                trained=carried - held,
                head=adapted.head_parameters(),
                kept=adapters + heads,
            )
        )
        notes += [f"{loaded.name}: {note}" for note in told]
        rehearse_own(own, parts, adapted, schedule)
    labels = merged_labels([each.task for each in data])
    notes += shared_notes([(loaded.name, rows.task.labels) for loaded, rows in zip(sequence.tasks, data, strict=True)])
    return SequencePlan(settings_of(sequence), tasks, labels, sum(task.steps for task in tasks), notes)


def shared_notes(tasks: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """Which labels several tasks have in common, and what becomes of them."""
    owners: dict[str, list[str]] = {}
    for name, labels in tasks:
        for label in labels:
            owners.setdefault(label, []).append(name)
    groups: dict[tuple[str, ...], list[str]] = {}
    for label, names in owners.items():
        if len(names) > 1:
            groups.setdefault(tuple(names), []).append(label)
    return [
        f"{' and '.join(names)} have labels in common, which are one where the task is not known: {', '.join(labels)}"
        for names, labels in groups.items()
    ]
