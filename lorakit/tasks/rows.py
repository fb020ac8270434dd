"""What a task takes from a file: texts in an Arrow table, labels and places as arrays.

A large file is read once: what was taken from it goes to the cache as it is read, and is mapped from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.tasks.cache import cached, sha256_of
from lorakit.tasks.columns import ClassColumn, IndexColumn, NumberColumn, TextColumn
from lorakit.tasks.labels import Codes
from lorakit.tasks.readers import READERS
from lorakit.tasks.table import Table, no_column, row_error

if TYPE_CHECKING:
    import pyarrow as arrow

    from lorakit.tasks.task import Task

logger = logging.getLogger(__name__)

LARGE = 2**23  # bytes of a file; a smaller one is read in less time than it takes to look into the cache
VERSION = 1  # of this file's and the readers' reading; another version finds nothing in the cache
TEXTS, REST = "texts.arrow", "rest.json"


@dataclass(frozen=True)
class Columns:
    """What a task takes from a file.

    text: one or two columns; regression: labels are numbers; label_optional: the file may come without labels; empty_text:
    texts may be empty (GLUE's QQP has some); idx: a column ``idx`` numbers the rows where there is one; keys, label_key: the
    recipe keys that named the columns.
    """

    text: tuple[str, ...]
    label: str
    regression: bool = False
    label_optional: bool = False
    empty_text: bool = False
    idx: bool = False
    keys: tuple[str, ...] = ("", "")
    label_key: str = ""

    @classmethod
    def of(cls, task: Task, split: str) -> Columns:
        """Those of a split of a task of the catalogue."""
        optional, idx = split in task.test, bool(task.hub)
        return cls(task.text, task.label, task.regression, optional, empty_text=True, idx=idx)

    @property
    def names(self) -> tuple[str, ...]:
        """All that is read."""
        return (*self.text, self.label, *(["idx"] if self.idx else []))


@dataclass(frozen=True)
class Rows:
    """The rows of a file, without what no task asked for.

    names: all columns of the file; texts: columns text and maybe text_pair; labels: codes of classes, or numbers (n,), None where
    the file has none; numbers (n,): where each row is, counted from 1 in ``unit``; idx (n,): the rows' own numbers; skipped: lines
    left out because they are broken.
    """

    path: str
    names: tuple[str, ...]
    texts: arrow.Table
    labels: Codes | NDArray[np.float32] | None
    numbers: NDArray[np.int64]
    idx: NDArray[np.int64]
    unit: str
    skipped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def refuse(
        self, rows: Sequence[int] | NDArray[np.int64], what: str, *, valid: str = "", hint: str = ""
    ) -> DataError:
        """A DataError about these rows (positions), telling the first few places."""
        return row_error(self.path, self.numbers[rows].tolist(), what, unit=self.unit, valid=valid, hint=hint)


def read_rows(path: Path, columns: Columns) -> Rows:
    """The rows of a file whose extension is among READERS. Raises DataError about anything wrong with it."""
    tables = partial(READERS[path.suffix.lower()], path, columns.names)
    try:
        content = sha256_of(path) if path.stat().st_size >= LARGE else ""
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    if not content:
        return gather(tables(), columns)
    settings = hashlib.sha256(repr((VERSION, content, path.suffix.lower(), columns)).encode())

    def build(folder: Path) -> None:
        logger.info("reading %s, %s MB: the first time", path, f"{path.stat().st_size / 1e6:,.0f}")
        save(gather(tables(), columns, folder), folder)
        if sha256_of(path) != content:
            raise DataError("the file was changed while it was read", where=str(path))

    with cached(f"rows-{settings.hexdigest()}", build) as folder:
        return load(folder, str(path))


def gather(tables: Iterable[Table], columns: Columns, folder: Path | None = None) -> Rows:
    """The rows of a file's tables; with a folder the texts go there, and are mapped from there.

    Raises DataError about a column that is not there, a text that is missing or none, and labels that no task could use.
    """
    import pyarrow as arrow

    texts = [TextColumn(name, empty=columns.empty_text) for name in columns.text]
    optional = columns.label_optional
    label = NumberColumn(columns.label, optional=optional) if columns.regression else ClassColumn(columns.label)
    idx = IndexColumn("idx" if columns.idx else "")
    places = [np.empty(0, np.int64)]
    names: dict[str, None] = {}
    skipped: list[int] = []
    schema = arrow.schema([(name, arrow.string()) for name, _ in zip(("text", "text_pair"), texts, strict=False)])
    stream = arrow.OSFile(str(folder / TEXTS), "wb") if folder else arrow.BufferOutputStream()
    with arrow.ipc.new_stream(stream, schema) as writer:
        for table in tables:
            names |= dict.fromkeys(table.names)
            skipped += table.skipped
            if len(table):
                writer.write_batch(arrow.record_batch([text.add(table) for text in texts], schema=schema))
                label.add(table)
                idx.add(table)
                places.append(np.asarray(table.numbers, np.int64))
    source = stream.getvalue() if folder is None else close_and_map(stream, folder / TEXTS)
    rows = Rows(
        path=table.path,
        names=tuple(names),
        texts=arrow.ipc.open_stream(source).read_all(),
        labels=label.values() if columns.label in names else None,
        numbers=np.concatenate(places),
        idx=idx.values(),
        unit=table.unit,
        skipped=tuple(skipped),
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
        needed[columns.label] = columns.label_key
    for name, key in needed.items():
        if name not in rows.names:
            raise no_column(rows.path, name, rows.names, key)


def save(rows: Rows, folder: Path) -> None:
    """Write all but the texts, which are there."""
    rest: dict[str, Any] = {"names": rows.names, "classes": None, "unit": rows.unit, "skipped": rows.skipped}
    arrays: dict[str, NDArray[Any]] = {"numbers": rows.numbers, "idx": rows.idx}
    if isinstance(rows.labels, Codes):
        rest["classes"], arrays["labels"] = rows.labels.names, rows.labels.codes
    elif rows.labels is not None:
        arrays["labels"] = rows.labels
    (folder / REST).write_text(json.dumps(rest), encoding="utf-8")
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path, path: str) -> Rows:
    """The rows of a file at ``path`` as ``save`` wrote them."""
    import pyarrow as arrow

    rest = json.loads((folder / REST).read_text(encoding="utf-8"))
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    labels = arrays.get("labels")
    return Rows(
        path=path,
        names=tuple(rest["names"]),
        texts=arrow.ipc.open_stream(arrow.memory_map(str(folder / TEXTS))).read_all(),
        labels=labels if rest["classes"] is None or labels is None else Codes(tuple(rest["classes"]), labels),
        numbers=arrays["numbers"],
        idx=arrays["idx"],
        unit=rest["unit"],
        skipped=tuple(rest["skipped"]),
    )
