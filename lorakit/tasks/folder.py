"""A task's splits from a local folder: parquet files or GLUE's classic TSV layout, found by themselves.

Looked for in the sub-folder named like the task (``mrpc``, ``MRPC``, ``SST-2``, ``STS-B``) and in the folder itself:
``train.parquet`` or shards ``train-00000-of-00001.parquet``; else ``train.tsv``, ``dev.tsv``, ``test.tsv``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lorakit.errors import DataError
from lorakit.tasks.glue_tsv import find_tsv, read_glue_tsv, split_msr
from lorakit.tasks.parquet import read_parquet
from lorakit.tasks.rows import Columns
from lorakit.tasks.table import Tables, whole_path
from lorakit.tasks.task import Task


def read_folder(task: Task, folder: Path, splits: Sequence[str] | None = None) -> Tables:
    """Tables of ``splits``; by default of train, the validation splits and whatever test splits there are.

    Raises DataError where one is missing.
    """
    if not os.path.isdir(folder):  # which takes any name, where pathlib raises
        valid = "hub, auto, or a folder with the task's parquet or tsv files"
        raise DataError(f"there is no folder {whole_path(folder)}", key="task.data", valid=valid)
    tables: Tables = {}
    for base in (*named_folders(task, folder), folder):
        tables = read_task_folder(task, base)
        if tables:
            break
    missing = [split for split in splits or ("train", *task.validation) if split not in tables]
    if not missing:
        return tables if splits is None else {split: tables[split] for split in splits}
    what = f"{base} has the task {task.name}, but no {missing[0]} split"
    if not tables:
        what = f"{folder} has no files of the task {task.name}"
    names = f"{missing[0]}.parquet or {missing[0].replace('validation', 'dev')}.tsv"
    valid = f"{task.name}/{names}, or the same without the sub-folder"
    raise DataError(what, key="task.data", valid=valid, hint="task.data=hub")


def named_folders(task: Task, folder: Path) -> list[Path]:
    """Sub-folders called like the task, whatever their case and hyphens."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and plain(path.name) == plain(task.name))


def plain(name: str) -> str:
    """A name's letters and digits in lower case: ``STS-B`` is ``stsb``."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def read_task_folder(task: Task, folder: Path) -> Tables:
    """The splits of a task that lie right in ``folder``."""
    tables: Tables = {}
    for split in ("train", *task.validation, *task.test):
        shards = find_parquet(folder, split)
        if shards:
            tables[split] = read_parquet(*shards, wanted=Columns.of(task, split).names)
        elif path := find_tsv(task, folder, split):
            tables[split] = read_glue_tsv(task, path, split)
    return tables if "train" in tables else tables | split_msr(task, folder)


def find_parquet(folder: Path, split: str) -> list[Path]:
    """The parquet file of a split, or its shards in order."""
    path = folder / f"{split}.parquet"
    return [path] if path.is_file() else sorted(folder.glob(f"{split}-?????-of-?????.parquet"))
