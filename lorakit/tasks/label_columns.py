"""Columns of several labels a row as they come in: a list or a text of labels, or a column of 0 and 1 for each label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lorakit.tasks.columns import MOST, SCALARS, ClassColumn, class_of, values_of
from lorakit.tasks.label_sets import as_cell
from lorakit.tasks.labels import Codes, written
from lorakit.tasks.table import Table, short

if TYPE_CHECKING:
    from lorakit.tasks.rows import Rows

FLAGS = {"0": False, "1": True, "false": False, "true": True}


class SetColumn(ClassColumn):
    """The labels of a row in one value; rows with the same ones have one code."""

    valid = "a list of labels, or a text with a separator between them"
    most = 10 * MOST  # of combinations of labels there may be as many as rows

    def fits(self, value: Any) -> bool:
        """Whether the value could be the labels of a row."""
        if isinstance(value, list | tuple):
            return all(isinstance(label, SCALARS) for label in value)
        return super().fits(value)

    def label_of(self, value: Any) -> str | None:
        """The labels as one text."""
        return as_cell(value)

    def named(self, value: Any, classes: Sequence[str]) -> Any:
        """Numbers of classes as their names."""
        return None if value is None else [class_of(label, classes) for label in value]


class FlagColumns:
    """Columns that say of one label each whether a row has it. What comes out is as if a column held lists of their names."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.rows = 0
        self.places: dict[str | None, int] = {}
        self.codes = [np.empty(0, np.int32)]
        self.wrong: dict[str, list[int]] = {}
        self.example: Any = None

    def add(self, table: Table) -> None:
        """Keep the labels of another table."""
        flags = []
        for name in self.names:
            values = values_of(table, name)
            read = [
                FLAGS.get((written(value) or "").lower()) if isinstance(value, SCALARS) else None for value in values
            ]
            if wrong := [row for row, flag in enumerate(read) if flag is None]:
                self.example = values[wrong[0]] if not self.wrong else self.example
                self.wrong.setdefault(name, []).extend(self.rows + row for row in wrong)
            flags.append(read)
        codes = np.empty(len(table), np.int32)
        for row, which in enumerate(zip(*flags, strict=True)):
            there = [name for name, flag in zip(self.names, which, strict=True) if flag]
            codes[row] = self.places.setdefault(json.dumps(there, ensure_ascii=False), len(self.places))
        self.codes.append(codes)
        self.rows += len(table)

    def values(self) -> Codes:
        """All labels."""
        return Codes(tuple(self.places), np.concatenate(self.codes))

    def check(self, rows: Rows) -> None:
        """Raise DataError about what says neither yes nor no."""
        if rows.labels is None:
            return
        for name, wrong in self.wrong.items():
            what = f"column '{name}' holds {short(self.example)} where it says whether a row has the label"
            raise rows.refuse(wrong, what, valid="0, 1, true, false")
