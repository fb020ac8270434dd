"""GLUE's classic download: ``CoLA/train.tsv dev.tsv test.tsv`` and so on, each task with a layout of its own.

Every file is tab separated without quoting. ``idx`` is the row's number in its file, as the hub data set has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorakit.errors import DataError
from lorakit.tasks.readers import read_tsv
from lorakit.tasks.table import Table, Tables, whole
from lorakit.tasks.task import Task


@dataclass(frozen=True)
class Layout:
    """How a task's files look where they differ from the data set on the hub.

    columns: header name in the file -> the task's column, for those that differ; header: of files without a header line
    (all but the test file); skip_broken: leave out broken lines, because the official file is known to hold some.
    """

    columns: dict[str, str] = field(default_factory=dict)
    header: tuple[str, ...] | None = None
    skip_broken: bool = False


LAYOUTS = {
    "sst2": Layout(),
    "qnli": Layout(),
    "rte": Layout(),
    "wnli": Layout(),
    "cola": Layout(header=("source", "label", "mark", "sentence")),
    "mrpc": Layout({"Quality": "label", "#1 String": "sentence1", "#2 String": "sentence2"}),
    # Some of the official questions hold line breaks, which cut their rows in two.
    "qqp": Layout({"is_duplicate": "label"}, skip_broken=True),
    "stsb": Layout({"score": "label"}),
    "mnli": Layout({"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}),
}
MSR_TRAIN, MSR_TEST, MSR_DEV_IDS = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"


def find_tsv(task: Task, folder: Path, split: str) -> Path | None:
    """The file of a GLUE task's split (hub names such as ``validation_matched``) in the task's folder, or None."""
    names = [f"{split.replace('validation', 'dev')}.tsv"] if task.name in LAYOUTS else []
    if task.name == "mrpc" and split == "test":
        names.append(MSR_TEST)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_glue_tsv(task: Task, path: Path, split: str) -> Iterator[Table]:
    """One file of the classic layout as tables with the task's own columns and ``idx``."""
    layout = LAYOUTS[task.name]
    header = None if split in task.test else layout.header
    first = 1 if header else 2
    for table in read_tsv(path, header, skip_broken=layout.skip_broken):
        missing = [name for name in source_columns(task, layout) if name not in table.columns]
        if missing:
            found = ", ".join(table.columns)
            raise DataError(
                f"no column '{missing[0]}' in the header of a GLUE file of {task.name}; it has {found}",
                where=f"{path}:1",
            )
        columns = {layout.columns.get(name, name): values for name, values in table.columns.items()}
        columns["idx"] = [number - first for number in table.numbers]
        yield replace(table, columns=columns, names=list(columns))


def source_columns(task: Task, layout: Layout) -> list[str]:
    """The file's names of the task's text columns."""
    names = {ours: theirs for theirs, ours in layout.columns.items()}
    return [names.get(name, name) for name in task.text]


def split_msr(task: Task, folder: Path) -> Tables:
    """MRPC's train and validation from Microsoft's own training file and GLUE's list of validation pairs, {} without them."""
    path, ids = folder / MSR_TRAIN, folder / MSR_DEV_IDS
    if task.name != "mrpc" or not path.is_file():
        return {}
    if not ids.is_file():
        hint = f"put GLUE's {MSR_DEV_IDS} beside it"
        raise DataError(f"{MSR_TRAIN} needs the list of the pairs that GLUE validates on", where=str(folder), hint=hint)
    table = whole(read_glue_tsv(task, path, "train"))
    held_out = set(zip(*whole(read_tsv(ids, ("#1 ID", "#2 ID"))).columns.values(), strict=True))
    pairs = list(zip(table.column("#1 ID"), table.column("#2 ID"), strict=True))
    validation = [row for row, pair in enumerate(pairs) if pair in held_out]
    train = [row for row, pair in enumerate(pairs) if pair not in held_out]
    return {"train": [table.select(train)], "validation": [table.select(validation)]}
