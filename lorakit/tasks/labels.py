"""Labels as people write them (names, ids, true/false, numbers) to class ids 0..n-1 or floats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import DataError
from lorakit.tasks.readers import Table

INTEGER = re.compile(r"[+-]?\d+")
WHOLE = re.compile(r"([+-]?\d+)\.0+")  # 1.0, as tables write an integer column that has gaps
FRACTION = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
MANY = 50  # more labels than this, and than half the rows, look like a wrong column


@dataclass(frozen=True)
class LabelMap:
    """names: label names in the order of their ids; ids: from a label as the data writes it to its id."""

    names: tuple[str, ...]
    ids: dict[str, int]

    @classmethod
    def of_names(cls, names: Sequence[str], values: Sequence[Any]) -> LabelMap:
        """The map for given names: ``values`` (the training labels) are either all names or all ids 0..n-1."""
        found = {label for value in values if (label := written(value)) is not None}
        ids = {written(name) or name: i for i, name in enumerate(names)}
        if not found <= set(ids) and all(INTEGER.fullmatch(label) for label in found):
            return cls(tuple(names), {str(i): i for i in range(len(names))})
        return cls(tuple(names), ids)

    @classmethod
    def found_in(cls, table: Table, column: str) -> LabelMap:
        """The map for names found in a table: integers in their order (so 0..n-1 stay as they are), others sorted."""
        values = table.column(column)
        found = {label for value in values if (label := written(value)) is not None}
        fractions = sorted(label for label in found if FRACTION.fullmatch(label))
        if fractions:
            raise DataError(
                f"{table.path}: the labels in column '{column}' are numbers such as {fractions[0]}, not classes",
                key="task.label",
                hint="for a number to predict set task.regression=true",
            )
        if len(found) > max(MANY, len(table) / 2):
            raise DataError(
                f"{table.path}: column '{column}' has {len(found):,} different labels in {len(table):,} rows",
                key="task.label",
                valid="a column with few different values, or a number with task.regression=true",
            )
        if len(found) < 2:
            raise DataError(
                f"{table.path}: all labels in column '{column}' are the same"
                if found
                else f"{table.path}: column '{column}' has no labels",
                key="task.label",
                hint="give all label names as task.labels" if found else "",
            )
        integers = all(INTEGER.fullmatch(label) for label in found)
        names = sorted(found, key=int) if integers else sorted(found)
        return cls(tuple(names), {name: i for i, name in enumerate(names)})

    def encode(self, table: Table, column: str, *, hint: str = "") -> list[int]:
        """Class ids of a table's column. Raises DataError about labels that are missing or not in the map."""
        labels = [written(value) for value in table.column(column)]
        refuse_missing(table, column, labels)
        unknown = [row for row, label in enumerate(labels) if label not in self.ids]
        if unknown:
            which = ", ".join(f"'{label}'" for label in sorted({str(labels[row]) for row in unknown})[:5])
            valid = ", ".join(self.ids)
            if tuple(self.ids) != self.names:
                valid = ", ".join(f"{i} ({name})" for name, i in zip(self.names, self.ids.values(), strict=True))
            raise table.refuse(
                unknown, f"label {which} is not one of the {len(self.names)} labels", valid=valid, hint=hint
            )
        return [self.ids[label] for label in labels if label is not None]


def encode_numbers(table: Table, column: str) -> list[float]:
    """Floats of a table's column. Raises DataError about labels that are missing, not numbers, or not finite."""
    values = table.column(column)
    refuse_missing(table, column, [written(value) for value in values])
    numbers = [as_number(value) for value in values]
    wrong = [row for row, number in enumerate(numbers) if number is None or not math.isfinite(number)]
    if wrong:
        raise table.refuse(wrong, f"label {values[wrong[0]]!r} is not a number", valid="finite numbers, for regression")
    return [number for number in numbers if number is not None]


def unlabelled(table: Table, column: str, labels: LabelMap | None) -> bool:
    """Whether a table has no labels: no such column, nothing in it, or the -1 that GLUE's test splits hold."""
    nothing = {None} if labels and "-1" in labels.ids else {None, "-1"}
    return column not in table.columns or {written(value) for value in table.columns[column]} <= nothing


def written(value: Any) -> str | None:
    """A label's canonical text, None where it is missing: 1, 1.0, "1" and "1.0" are the same label."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text if text and text.lower() != "nan" else None


def as_number(value: Any) -> float | None:
    """The value as a float, None where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def refuse_missing(table: Table, column: str, labels: Sequence[str | None]) -> None:
    """Raise DataError if a row has no label."""
    missing = [row for row, label in enumerate(labels) if label is None]
    if missing:
        rows = "row has" if len(missing) == 1 else "rows have"
        raise table.refuse(missing, f"{len(missing):,} {rows} no label in column '{column}'")
