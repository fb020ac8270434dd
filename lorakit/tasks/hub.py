"""Data sets on the Hugging Face hub: a task's splits, and what is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorakit.errors import DataError
from lorakit.tasks.table import CHUNK, Table, Tables
from lorakit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


def read_hub(task: Task, splits: Sequence[str] | None = None, *, offline: bool = False) -> Tables:
    """The tables of ``datasets.load_dataset(*task.hub)``, of ``splits`` alone where they are given.

    Raises DataError at once when offline, and when the hub fails.
    """
    name = "/".join(task.hub)
    valid = "a folder with the task's parquet or tsv files, also as $LORAKIT_GLUE_DIR"
    found = fetch(task.hub, key="task.data", valid=valid, folder="FOLDER", offline=offline)
    wanted = splits or ("train", *task.validation, *task.test)
    missing = [split for split in splits or ("train", *task.validation) if split not in found]
    if missing:
        raise DataError(f"{name} has no split '{missing[0]}'", key="task.data", valid=", ".join(found))
    return {split: hub_tables(f"{name} {split}", found[split]) for split in wanted if split in found}


def fetch(names: Sequence[str], *, key: str, valid: str, folder: str, offline: bool) -> Mapping[str, Dataset]:
    """All splits of the data set ``names``: its name, and maybe a configuration of it.

    valid: what to name instead, where there is no network; folder: how a recipe names a copy of it. Raises DataError at once
    when offline, and when the hub fails.
    """
    name = "/".join(names)
    copied = f"{key}={folder}" if "." in key else f"{folder} in its place"
    hint = f"hf download {names[0]} --repo-type dataset --local-dir FOLDER on a machine with network, then {copied}"
    if offline or offline_by_environment():
        what = f"{name} is on the Hugging Face hub, and this is an offline run"
        raise DataError(what, key=key, valid=valid, hint=hint)
    import datasets

    try:
        found: Mapping[str, Dataset] = datasets.load_dataset(*names)
    except Exception as error:  # the hub's clients raise many unrelated kinds
        reason, *more = str(error).strip().split("\n")
        configurations = [line for line in more if line.startswith("Please pick one")]
        what = f"{name} could not be loaded from the Hugging Face hub: {reason or type(error).__name__}"
        raise DataError(what, key=key, hint=configurations[0] if configurations else hint) from error
    return found


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
