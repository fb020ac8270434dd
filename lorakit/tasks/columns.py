"""Columns of a file as they come in, chunk by chunk: what is kept of each, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.tasks.labels import Codes, as_number, refuse_missing, written
from lorakit.tasks.table import Table, clipped, short

if TYPE_CHECKING:
    from lorakit.tasks.rows import Rows

MOST = 100_000  # classes; beyond that the column is no label, and its values are not held in memory
SCALARS = (str, bool, int, float, Decimal, date, time, type(None))


def values_of(table: Table, name: str) -> Sequence[Any]:
    """A column's values, None in all rows where the table lacks it."""
    return table.columns[name] if name in table.columns else [None] * len(table)


def inner_hint(name: str, example: Any) -> str:
    """How to name what is inside of a column of objects."""
    keys = [key for key in example if isinstance(key, str)] if isinstance(example, dict) else []
    return f"name what is inside of it, such as {name}.{clipped(keys[0])}" if keys else ""


class TextColumn:
    """Texts, which are handed on; rows without any are remembered.

    empty: texts may be empty.
    """

    def __init__(self, name: str, *, empty: bool):
        self.name, self.empty = name, empty
        self.rows = 0
        self.missing: list[int] = []
        self.wrong: list[int] = []
        self.example: Any = None

    def add(self, table: Table) -> list[str]:
        """The texts of another table, "" for what is none."""
        values = values_of(table, self.name)
        texts = [value if isinstance(value, str) else "" for value in values]
        for row, text in enumerate(texts):
            if not text or text.isspace():
                self.suspect(self.rows + row, values[row])
        self.rows += len(table)
        return texts

    def suspect(self, row: int, value: Any) -> None:
        """Remember a row whose value is blank or no text."""
        if value is None or (isinstance(value, str) and not self.empty):
            self.missing.append(row)
        elif not isinstance(value, str):
            self.example = value if not self.wrong else self.example
            self.wrong.append(row)

    def check(self, rows: Rows) -> None:
        """Raise DataError about rows without text."""
        if self.missing:
            which = "row has" if len(self.missing) == 1 else "rows have"
            raise rows.refuse(self.missing, f"{len(self.missing):,} {which} no text in column '{self.name}'")
        if self.wrong:
            kind = type(self.example).__name__
            what = f"column '{self.name}' holds a {kind} where text is needed: {short(self.example)}"
            raise rows.refuse(self.wrong, what, hint=inner_hint(self.name, self.example))


class ClassColumn:
    """Labels that are classes, whatever the task makes of them later. classes: their names in order, where the file says them."""

    valid = "text, whole numbers, true and false, dates"
    most = MOST

    def __init__(self, name: str):
        self.name = name
        self.classes: tuple[str, ...] = ()
        self.rows = 0
        self.places: dict[str | None, int] = {}
        self.known: dict[str, int] = {}  # by the text as the file has it
        self.codes = [np.empty(0, np.int32)]
        self.wrong: list[int] = []
        self.example: Any = None

    def add(self, table: Table) -> None:
        """Keep the labels of another table."""
        values = values_of(table, self.name)
        classes = tuple(written(name) or name for name in table.classes.get(self.name, ()))
        self.classes = self.classes or classes
        if classes:
            values = [self.named(value, classes) for value in values]
        places = (
            self.known[value] if type(value) is str and value in self.known else self.place(value) for value in values
        )
        self.codes.append(np.fromiter(places, np.int32, len(values)))
        self.wrong += [self.rows + row for row, value in enumerate(values) if not self.fits(value)]
        if self.wrong and self.example is None:
            self.example = values[self.wrong[0] - self.rows]
        self.rows += len(table)
        if len(self.places) > self.most:
            what = f"{table.path}: column '{self.name}' has more than {self.most:,} different labels"
            raise DataError(what, key="task.label", hint="for a number to predict set task.regression=true")

    def place(self, value: Any) -> int:
        """The place of a label, a new one where it was not met before."""
        label = self.label_of(value) if self.fits(value) else None
        place = self.places.setdefault(label, len(self.places))
        if type(value) is str and len(self.known) < MOST:
            self.known[value] = place
        return place

    def fits(self, value: Any) -> bool:
        """Whether the value could be a label."""
        return isinstance(value, SCALARS)

    def label_of(self, value: Any) -> str | None:
        """A value's canonical text, None where there is no label."""
        return written(value)

    def named(self, value: Any, classes: Sequence[str]) -> Any:
        """A value that is a class's number as its name."""
        return class_of(value, classes)

    def values(self) -> Codes:
        """All labels."""
        return Codes(tuple(self.places), np.concatenate(self.codes))

    def check(self, rows: Rows) -> None:
        """Raise DataError about what could not be a label."""
        if self.wrong:
            kind = type(self.example).__name__
            what = f"column '{self.name}' holds a {kind} where a label is needed: {short(self.example)}"
            hint = inner_hint(self.name, self.example)
            if isinstance(self.example, list):
                hint = "task.multi_label=true, where a row may have several labels"
            raise rows.refuse(self.wrong, what, valid=self.valid, hint=hint)


def class_of(value: int | None, classes: Sequence[str]) -> str | None:
    """A class's name; None for -1, which stands for no label; a number that is no class as it is."""
    if value is None or value == -1:
        return None
    return classes[value] if 0 <= value < len(classes) else str(value)


class NumberColumn:
    """Labels that are numbers to predict.

    optional: a column without any, or with nothing but the -1 that GLUE's test splits hold, is no labels.
    """

    def __init__(self, name: str, *, optional: bool):
        self.name, self.optional = name, optional
        self.numbers = [np.empty(0, np.float32)]
        self.rows = 0
        self.missing: list[int] = []
        self.wrong: list[int] = []
        self.example: Any = None

    def add(self, table: Table) -> None:
        """Keep the numbers of another table."""
        values = values_of(table, self.name)
        with np.errstate(over="ignore"):
            numbers = np.fromiter(map(as_number, values), np.float64, len(values)).astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(numbers)).tolist():
            if written(values[row]) is None:
                self.missing.append(self.rows + row)
            else:
                self.example = values[row] if not self.wrong else self.example
                self.wrong.append(self.rows + row)
        self.numbers.append(numbers)
        self.rows += len(table)

    def values(self) -> NDArray[np.float32] | None:
        """All labels (n,); None where there are none and need be none."""
        numbers = np.concatenate(self.numbers)
        empty = np.count_nonzero(numbers == -1) + len(self.missing) == len(numbers)
        return None if self.optional and empty else numbers

    def check(self, rows: Rows) -> None:
        """Raise DataError about labels that are missing, no numbers, or more than a float32 holds."""
        if rows.labels is None:
            return
        refuse_missing(rows, self.name, self.missing)
        if self.wrong:
            what = f"label {short(self.example)} is not a number"
            raise rows.refuse(self.wrong, what, valid="finite numbers, for regression")


class IndexColumn:
    """The rows' own numbers, or where a row is among all where the file has none."""

    def __init__(self, name: str):
        self.name = name
        self.numbers = [np.empty(0, np.int64)]
        self.rows = 0

    def add(self, table: Table) -> None:
        """Keep the numbers of another table. Raises DataError about what is none."""
        if self.name not in table.columns:
            self.numbers.append(np.arange(self.rows, self.rows + len(table)))
        else:
            try:
                self.numbers.append(np.asarray([int(value) for value in table.columns[self.name]], np.int64))
            except (TypeError, ValueError, OverflowError) as error:
                what = f"column '{self.name}' holds what is no row's number: {error}"
                raise DataError(what, where=table.path) from error
        self.rows += len(table)

    def values(self) -> NDArray[np.int64]:
        """All numbers (n,)."""
        return np.concatenate(self.numbers)
