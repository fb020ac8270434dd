"""``lorakit eval TASK --run RUN`` of a run that learnt another task: scored where the labels have the same names, and said loudly."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorakit.artifacts.provenance import NOT_SHARED, read_provenance, text_digests
from lorakit.artifacts.run import Run
from lorakit.errors import UsageError, command_line
from lorakit.tasks.label_order import order_by_name, told
from lorakit.tasks.task import Task, TaskData

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def outputs_by_name(run: Run, learnt: Task, task: Task) -> list[int]:
    """For each label of ``task`` the output of a run that learnt another one: labels are matched by name, in any order.

    Raises UsageError, with the labels of both, where their names are not the same, and for pairs of texts against single ones.
    """
    what = f"this run learnt {learnt.name}, not {task.name}"
    hint = f"{command_line('eval', learnt.known_as)}, or --file with any labelled file"
    if learnt.pair != task.pair:
        raise UsageError(f"{what}: one has pairs of texts, the other single ones", where=str(run.path), hint=hint)
    if learnt.multi_label != task.multi_label:
        raise UsageError(f"{what}: one gives a row several labels, the other one", where=str(run.path), hint=hint)
    order = order_by_name(learnt.labels, task.labels)
    if not order:
        both = "; ".join(f"of {each.known_as}: {told(each.labels)}" for each in (learnt, task))
        raise UsageError(f"{what}, and their labels differ: {both}", where=str(run.path), hint=hint)
    return order


def warn_of_other_task(run: Run, learnt: Task, data: TaskData, splits: Sequence[str]) -> None:
    """Say that the run learnt something else, and how many of the texts to score it was trained on all the same."""
    logger.warning(
        "%s learnt %s, and not %s: these scores tell how it does outside of what it was trained for; labels are matched by name",
        run.path,
        learnt.known_as,
        data.task.known_as,
    )
    for split in splits:
        warn_of_trained((run.path,), data.splits[split], split)


def warn_of_trained(runs: Sequence[Path], split: Dataset, name: str) -> None:
    """Say how many of the texts to score any of the ``runs`` was trained on; runs of older versions do not tell."""
    made_of = [found for run in runs if (found := read_provenance(run)) is not None]
    if any(found.told.get(NOT_SHARED) for found in made_of):
        logger.warning(
            "nothing tells which texts of %s it was trained on: the run was passed on without its rows", name
        )
    digests = text_digests(split)
    if seen := int(np.isin(digests, np.concatenate([found.trained for found in made_of])).sum()) if made_of else 0:
        logger.warning(
            "%s of the %s texts of %s are among its training texts: scores are better than they should be",
            f"{seen:,}",
            f"{len(digests):,}",
            name,
        )
