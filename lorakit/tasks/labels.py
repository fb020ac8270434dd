"""Labels as people write them (names, ids, true/false, dates, numbers) to class ids 0..n-1 or floats."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.tasks.table import SHOWN, clipped

if TYPE_CHECKING:
    from lorakit.tasks.label_sets import LabelSets
    from lorakit.tasks.rows import Rows

INTEGER = re.compile(r"[+-]?\d{1,300}")  # Python converts no more than some thousand digits
WHOLE = re.compile(r"([+-]?\d+)\.0+")  # 1.0, as tables write an integer column that has gaps
FRACTION = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
BOOLEANS = ("true", "false")
MANY = 50  # more labels than this, and than half the rows, look like a wrong column
LABEL_EACH = "give each row its label, or leave the row out"


@dataclass(frozen=True)
class Codes:
    """Labels (n,) as places in ``names``: canonical texts in the order in which they were met, None for no label."""

    names: tuple[str | None, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class LabelMap:
    """names: label names in the order of their ids; ids: from a label as the data writes it, folded, to its id."""

    names: tuple[str, ...]
    ids: dict[str, int]

    @classmethod
    def of_names(cls, names: Sequence[str], rows: Rows) -> LabelMap:
        """The map for given names: the labels of ``rows``, the training rows, are either all names or all ids 0..n-1.

        Classes that the file has other names for are renamed by their ids.
        """
        found = labels_in(rows)
        ids = {fold(written(name) or name): i for i, name in enumerate(names)}
        if not {fold(label) for label in found} <= set(ids):
            if rows.classes:
                return cls(tuple(names), dict(zip(map(fold, rows.classes), range(len(names)), strict=False)))
            if all(INTEGER.fullmatch(label) for label in found):
                return cls(tuple(names), {str(i): i for i in range(len(names))})
        return cls(tuple(names), ids)

    @classmethod
    def found_in(cls, rows: Rows, column: str) -> LabelMap:
        """The map for names found in the training rows: integers in their order (0..n-1 stay as they are), others sorted.

        Classes that the file itself names keep its order, and those without a row are classes too; other files may have their ids.
        """
        found = one_spelling(labels_in(rows))
        if rows.classes and len(found) > 1:
            return cls.declared(rows, column)
        fractions = sorted(label for label in found if FRACTION.fullmatch(label))
        if fractions:
            raise DataError(
                f"{rows.path}: the labels in column '{column}' are numbers such as {clipped(fractions[0])}, not classes",
                key="task.label",
                hint="for a number to predict set task.regression=true; to tell them apart name them all as task.labels",
            )
        if len(found) > max(MANY, len(rows) / 2):
            raise DataError(
                f"{rows.path}: column '{column}' has {len(found):,} different labels in {len(rows):,} rows",
                key="task.label",
                valid="a column with few different values, or a number with task.regression=true",
            )
        if len(found) < 2:
            raise DataError(
                f"{rows.path}: all labels in column '{column}' are the same"
                if found
                else f"{rows.path}: column '{column}' has no labels",
                key="task.label",
                hint="give all label names as task.labels" if found else "",
            )
        names = in_order(found)
        return cls(names, {fold(name): i for i, name in enumerate(names)})

    @classmethod
    def declared(cls, rows: Rows, column: str) -> LabelMap:
        """The map for the class names that a file's own schema has."""
        ids = {fold(name): i for i, name in enumerate(rows.classes)}
        if len(ids) < len(rows.classes):
            what = f"{rows.path}: two classes of column '{column}' have one name: {clipped(', '.join(rows.classes))}"
            raise DataError(what, key="task.label", hint="give the classes names that differ")
        if not any(INTEGER.fullmatch(name) for name in ids):
            ids |= {str(i): i for i in range(len(rows.classes))}
        return cls(rows.classes, ids)

    def encode(self, rows: Rows, column: str, *, hint: str = "") -> NDArray[np.int64]:
        """Class ids (n,) of rows. Raises DataError about labels that are missing or not in the map."""
        coded = codes(rows)
        if None in coded.names:
            hint = f"{LABEL_EACH}; where a row may have none, or several: task.multi_label=true"
            refuse_missing(rows, column, np.flatnonzero(coded.codes == coded.names.index(None)), hint=hint)
        ids = np.array([self.ids.get(fold(str(name)), -1) for name in coded.names], np.int64)[coded.codes]
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            found = sorted({str(coded.names[place]) for place in coded.codes[unknown]})[:SHOWN]
            which = ", ".join(f"'{clipped(label)}'" for label in found)
            named = {label: self.names[i] for label, i in self.ids.items()}
            valid = ", ".join(name if fold(name) == label else f"{label} ({name})" for label, name in named.items())
            what = f"label {which} is not one of the {len(self.names)} labels"
            raise rows.refuse(unknown, what, valid=valid, hint=hint)
        return ids

    @property
    def none(self) -> set[str]:
        """What a column without labels may hold: the -1 of GLUE's test splits."""
        return {"-1"} - set(self.ids)


def in_order(found: set[str]) -> tuple[str, ...]:
    """Label names sorted, whole numbers by their value."""
    integers = all(INTEGER.fullmatch(label) for label in found)
    # Labels that are equal as numbers (1, 01) are told apart by how they are written, not by where a set has them.
    return tuple(sorted(found, key=lambda name: (int(name), len(name), name)) if integers else sorted(found))


def codes(rows: Rows) -> Codes:
    """The rows' labels, which are classes."""
    if not isinstance(rows.labels, Codes):
        raise TypeError("the labels are no classes")
    return rows.labels


def labels_in(rows: Rows) -> set[str]:
    """All labels that the rows have."""
    return {name for name in codes(rows).names if name is not None}


def unlabelled(rows: Rows, labels: LabelMap | LabelSets | None) -> bool:
    """Whether rows have no labels: no such column, nothing in it, or nothing but what stands for none."""
    if labels is None or rows.labels is None:
        return rows.labels is None
    return labels_in(rows) <= labels.none


def fold(label: str) -> str:
    """What a label is matched by: True, TRUE and true are one."""
    return label.lower() if label.lower() in BOOLEANS else label


def one_spelling(found: set[str]) -> set[str]:
    """The labels as the file has them; true and false in small letters where it writes one of them in two ways."""
    folded = {fold(label) for label in found}
    return found if len(folded) == len(found) else folded


def written(value: Any) -> str | None:
    """A label's canonical text, None where it is missing: 1, 1.0, "1" and "1.0" are the same label, and so are a day and its midnight."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime.datetime) and value.tzinfo is None and value.time() == datetime.time():
        value = value.date()
    text = str(value).strip()
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text if text and text.lower() != "nan" else None


def as_number(value: Any) -> float:
    """The value as a float, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def refuse_missing(
    rows: Rows, column: str, missing: Sequence[int] | NDArray[np.int64], *, hint: str = LABEL_EACH
) -> None:
    """Raise DataError if there are rows (positions) without a label."""
    if len(missing):
        which = "row has" if len(missing) == 1 else "rows have"
        raise rows.refuse(missing, f"{len(missing):,} {which} no label in column '{column}'", hint=hint)
