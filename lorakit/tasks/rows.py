"""What a task takes from a file: texts in an Arrow table, labels and places as arrays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.tasks.columns import ClassColumn, IndexColumn, NumberColumn, TextColumn
from lorakit.tasks.label_columns import FlagColumns, SetColumn
from lorakit.tasks.labels import Codes
from lorakit.tasks.table import Table, no_column, row_error

if TYPE_CHECKING:
    import pyarrow as arrow

    from lorakit.tasks.task import Task

TEXTS = "texts.arrow"


@dataclass(frozen=True)
class Columns:
    """What a task takes from a file.

    text: one or two columns; regression: labels are numbers; label_optional: the file may come without labels; empty_text:
    texts may be empty (GLUE's QQP has some); idx: a column ``idx`` numbers the rows where there is one; keys, label_key: the
    recipe keys that named the columns; others: columns to keep besides; multi_label: rows have several labels, in the column
    ``label`` or, where there are any, in one of label_columns for each.
    """

    text: tuple[str, ...]
    label: str
    regression: bool = False
    label_optional: bool = False
    empty_text: bool = False
    idx: bool = False
    keys: tuple[str, ...] = ("", "")
    label_key: str = ""
    others: tuple[str, ...] = ()
    multi_label: bool = False
    label_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task, split: str) -> Columns:
        """Those of a split of a task of the catalogue."""
        optional, idx = split in task.test, bool(task.hub)
        return cls(task.text, task.label, task.regression, optional, empty_text=True, idx=idx)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The columns that labels are in."""
        return self.label_columns or (self.label,)

    @property
    def labelled_by(self) -> str:
        """The same, as messages say them."""
        return ", ".join(self.label_names)

    @property
    def names(self) -> tuple[str, ...]:
        """All that is read."""
        return (*self.text, *self.label_names, *(["idx"] if self.idx else []), *self.others)

    def label_reader(self) -> ClassColumn | NumberColumn | FlagColumns:
        """What takes the labels in."""
        if self.regression:
            return NumberColumn(self.label, optional=self.label_optional)
        if self.label_columns:
            return FlagColumns(self.label_columns)
        return SetColumn(self.label) if self.multi_label else ClassColumn(self.label)


@dataclass(frozen=True)
class Rows:
    """The rows of a file, or of several that are one split, without what no task asked for.

    names: all columns of the file; texts: columns text and maybe text_pair; labels: codes of classes, or numbers (n,), None where
    the file has none; numbers (n,): where each row is in its file, counted from 1 in ``unit``; idx (n,): the rows' own numbers;
    skipped: lines left out because they are broken; parts: each file with the position of its first row; classes: the names of the
    label's classes in their order, where the file says them; notes: what to tell about how it was read.
    """

    path: str
    names: tuple[str, ...]
    texts: arrow.Table
    labels: Codes | NDArray[np.float32] | None
    numbers: NDArray[np.int64]
    idx: NDArray[np.int64]
    unit: str
    skipped: tuple[int, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def refuse(
        self, rows: Sequence[int] | NDArray[np.int64], what: str, *, valid: str = "", hint: str = ""
    ) -> DataError:
        """A DataError about these rows (positions, in order), telling the first few places in the first file that has any."""
        starts = [*(start for _, start in self.parts), len(self)]
        place = bisect_right(starts, rows[0], hi=len(self.parts)) - 1
        here = [row for row in rows if row < starts[place + 1]]
        others = len(rows) - len(here)
        what += f", {others:,} of them in other files" if others else ""
        numbers = self.numbers[here].tolist()
        return row_error(self.parts[place][0], numbers, what, unit=self.unit, valid=valid, hint=hint)


def gather(tables: Iterable[Table], columns: Columns, folder: Path | None = None, *, name: str = "") -> Rows:
    """The rows of a file's tables; with a folder the texts go there, and are mapped from there.

    name: what the files are called together, where they are several. Raises DataError about a column that is not there, a text that
    is missing or none, and labels that no task could use.
    """
    import pyarrow as arrow

    texts = [TextColumn(name, empty=columns.empty_text) for name in columns.text]
    label = columns.label_reader()
    idx = IndexColumn("idx" if columns.idx else "")
    places = [np.empty(0, np.int64)]
    names: dict[str, None] = {}
    notes: dict[str, None] = {}
    parts: list[tuple[str, int]] = []
    skipped: list[int] = []
    schema = arrow.schema([(name, arrow.string()) for name, _ in zip(("text", "text_pair"), texts, strict=False)])
    stream = arrow.OSFile(str(folder / TEXTS), "wb") if folder else arrow.BufferOutputStream()
    with arrow.ipc.new_stream(stream, schema) as writer:
        for table in tables:
            names |= dict.fromkeys(table.names)
            notes |= dict.fromkeys(table.notes)
            skipped += table.skipped
            if not parts or parts[-1][0] != table.path:
                parts.append((table.path, label.rows))
            if len(table):
                writer.write_batch(arrow.record_batch([text.add(table) for text in texts], schema=schema))
                label.add(table)
                idx.add(table)
                places.append(np.asarray(table.numbers, np.int64))
    source = stream.getvalue() if folder is None else close_and_map(stream, folder / TEXTS)
    rows = Rows(
        path=name or table.path,
        names=tuple(names),
        texts=arrow.ipc.open_stream(source).read_all(),
        labels=label.values() if set(columns.label_names) <= set(names) else None,
        numbers=np.concatenate(places),
        idx=idx.values(),
        unit=table.unit,
        skipped=tuple(skipped),
        parts=tuple(parts),
        classes=label.classes if isinstance(label, ClassColumn) else (),
        notes=tuple(notes),
    )
    check_columns(rows, columns)
    for column in (*texts, label):
        column.check(rows)
    return rows


def close_and_map(stream: arrow.OSFile, path: Path) -> arrow.MemoryMappedFile:
    """A file that has just been written, mapped."""
    import pyarrow as arrow

    stream.close()
    return arrow.memory_map(str(path))


def check_columns(rows: Rows, columns: Columns) -> None:
    """Raise DataError about a column that the file lacks."""
    needed = dict(zip(columns.text, columns.keys, strict=False))
    if not columns.label_optional:
        needed |= dict.fromkeys(columns.label_names, columns.label_key)
    for name, key in needed.items():
        if name not in rows.names:
            raise no_column(rows.path, name, rows.names, key)
