"""A task's splits from the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorakit.errors import DataError
from lorakit.tasks.table import CHUNK, Table, Tables
from lorakit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


def read_hub(task: Task, *, offline: bool = False) -> Tables:
    """The tables of ``datasets.load_dataset(*task.hub)``. Raises DataError at once when offline, and when the hub fails."""
    name = "/".join(task.hub)
    hint = f"hf download {task.hub[0]} --repo-type dataset --local-dir FOLDER on a machine with network, then task.data=FOLDER"
    if offline or offline_by_environment():
        raise DataError(
            f"{name} is on the Hugging Face hub, and this is an offline run",
            key="task.data",
            valid="a folder with the task's parquet or tsv files, also as $LORAKIT_GLUE_DIR",
            hint=hint,
        )
    import datasets

    try:
        found = datasets.load_dataset(*task.hub)
    except Exception as error:  # the hub's clients raise many unrelated kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"{name} could not be loaded from the Hugging Face hub: {reason}", key="task.data", hint=hint
        ) from error
    wanted = ("train", *task.validation, *task.test)
    missing = [split for split in ("train", *task.validation) if split not in found]
    if missing:
        raise DataError(f"{name} has no split '{missing[0]}'", key="task.data", valid=", ".join(found))
    return {split: hub_tables(f"{name} {split}", found[split]) for split in wanted if split in found}


def hub_tables(name: str, split: Dataset) -> Iterator[Table]:
    """A split, a chunk of rows at a time."""
    yield Table(name, {column: [] for column in split.column_names}, [], "row")
    first = 1
    for columns in split.iter(CHUNK):
        count = len(next(iter(columns.values())))
        yield Table(name, columns, range(first, first + count), "row")
        first += count


def offline_by_environment() -> bool:
    """Whether the Hugging Face libraries are told to stay offline."""
    variables = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in variables)
