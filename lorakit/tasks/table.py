"""Rows as a file has them, with the place of each kept for messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from lorakit.errors import DataError, nearest

CHUNK = 1000  # rows in a table of a file
SHOWN = 5  # row numbers spelt out in a message
SHOWN_COLUMNS = 30
SHOWN_TEXT = 80
LONGEST_PATH = 4096


@dataclass
class Table:
    """Rows of one file as they are written there.

    path: the file; columns: values by column name, each of the same length; numbers: where each row is, counted from 1;
    unit: what numbers counts, "line" or "row"; skipped: lines that were left out because they are broken; names: all columns
    of the file, where only some were wanted; classes: the names of a column's whole numbers 0..n-1, by column name, where the
    file has them; notes: what to tell about how the file was read.
    """

    path: str
    columns: dict[str, list[Any]]
    numbers: Sequence[int]
    unit: str = "line"
    skipped: list[int] = field(default_factory=list)
    names: Collection[str] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.names = self.names or self.columns

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str) -> list[Any]:
        """The values of column ``name``. Raises DataError with the choices."""
        if name not in self.columns:
            raise no_column(self.path, name, self.columns)
        return self.columns[name]

    def select(self, rows: Sequence[int]) -> Table:
        """The table of these rows (positions), each still at its place in the file."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, numbers=[self.numbers[row] for row in rows])


Tables = dict[str, Iterable[Table]]
"""The files of a task's splits, each as its tables in order."""


def whole(tables: Iterable[Table]) -> Table:
    """The tables of a file with a header as one."""
    first, *others = tables
    for table in others:
        for name, values in table.columns.items():
            first.columns[name].extend(values)
        first.numbers = [*first.numbers, *table.numbers]
        first.skipped.extend(table.skipped)
    return first


def no_column(path: str, name: str, names: Collection[str], key: str = "") -> DataError:
    """A DataError about a column that is not among the file's ``names``; ``key`` is the recipe key that asked for it."""
    few = list(islice(names, SHOWN_COLUMNS))
    hint = nearest(name, few)
    separator = next((mark for mark in (",", ";", "|") if len(few) == 1 and mark in few[0]), "")
    if separator and ".tsv" in path.lower():
        hint = f"the header looks separated by {separator!r}, not by tabs: call the file .csv"
    more = f" and {len(names) - len(few):,} more" if len(names) > len(few) else ""
    return DataError(f"{path} has no column '{name}'", key=key, valid=", ".join(map(clipped, few)) + more, hint=hint)


def row_error(
    path: str, numbers: Sequence[int], what: str, *, unit: str = "line", valid: str = "", hint: str = ""
) -> DataError:
    """A DataError at ``path`` about the lines or rows ``numbers``."""
    shown = ", ".join(str(number) for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
    where = f"{path}:{numbers[0]}" if unit == "line" else path
    return DataError(
        f"{what} ({unit}{'s' if len(numbers) > 1 else ''} {shown}{more})", where=where, valid=valid, hint=hint
    )


def short(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    return clipped(repr(value))


def clipped(text: str) -> str:
    """A text on one line, cut where it is long."""
    start = text[:SHOWN_TEXT].replace("\n", "\\n")
    return start if len(text) <= SHOWN_TEXT else f"{start}... ({len(text):,} characters)"


def whole_path(named: object) -> str:
    """A path, or what was given for one, on one line: whole, unless it is too long to be one."""
    text = str(named)
    return text.replace("\n", "\\n") if len(text) <= LONGEST_PATH else clipped(text)


def refuse_twice(names: Sequence[str], where: str) -> None:
    """Raise DataError where a column's name is there twice."""
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise DataError(f"the header names a column twice: {clipped(', '.join(twice))}", where=where)
