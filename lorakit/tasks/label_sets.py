"""Several labels a row, also none: lists, texts with a separator, or a column of 0 and 1 for each label, to rows of 0 and 1."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.tasks.labels import FRACTION, INTEGER, MANY, codes, fold, in_order, one_spelling, refuse_missing, written
from lorakit.tasks.table import SHOWN, clipped

if TYPE_CHECKING:
    from lorakit.tasks.rows import Rows

SEPARATORS = (";", "|", ",")
SAID = {";": "semicolons", "|": "bars", ",": "commas"}
EMPTY_HINT = "an empty list or an empty text stands for no label"


@dataclass(frozen=True)
class LabelSets:
    """names: label names in the order of their ids; ids: from a label as the data writes it, folded, to its id; separator: what is
    between labels in a text, empty where a text is one label, None for each file's own (``separator_in``).
    """

    names: tuple[str, ...]
    ids: dict[str, int]
    separator: str | None = None

    @classmethod
    def of_names(cls, names: Sequence[str], separator: str | None = None) -> LabelSets:
        """The sets of given names."""
        return cls(tuple(names), {fold(written(name) or name): place for place, name in enumerate(names)}, separator)

    def with_ids(self, rows: Rows) -> LabelSets:
        """The same sets with the separator of ``rows``, the training rows; by 0..n-1 where their labels are whole numbers and no names."""
        between = separator_in(rows, self.separator, self.ids)
        found = {fold(label) for cell in codes(rows).names if cell is not None for label in labels_of(cell, between)}
        numbers = not found <= {*self.ids} and all(INTEGER.fullmatch(label) for label in found)
        ids = {str(place): place for place in range(len(self.names))} if numbers else self.ids
        return LabelSets(self.names, ids, self.separator if between == "" else between)

    @classmethod
    def found_in(cls, rows: Rows, column: str, separator: str | None = None) -> LabelSets:
        """Those of the names found in the training rows: whole numbers in their order, others sorted; the file's own classes as it
        has them. Raises DataError about what looks like no labels."""
        between = separator_in(rows, separator)
        sets = [labels_of(cell, between) for cell in codes(rows).names if cell is not None]
        found = one_spelling({name for names in sets for name in names})
        if rows.classes:
            return cls(rows.classes, {fold(name): place for place, name in enumerate(rows.classes)}, between)
        if fractions := sorted(name for name in found if FRACTION.fullmatch(name)):
            what = (
                f"{rows.path}: the labels in column '{column}' are numbers such as {clipped(fractions[0])}, not names"
            )
            raise DataError(what, key="task.label", valid="names, whole numbers, true and false")
        if len(found) > max(MANY, len(rows) / 2):
            what = f"{rows.path}: column '{column}' has {len(found):,} different labels in {len(rows):,} rows"
            raise DataError(what, key="task.label", hint=separator_hint(between))
        if len(found) < 2:
            which = f"one label, {next(iter(found))}" if found else "no labels"
            what = f"{rows.path}: column '{column}' has {which}"
            hint = "a label that is there or not is two classes: leave task.multi_label out" if found else ""
            raise DataError(what, key="task.label", valid="two labels or more", hint=hint)
        names = in_order(found)
        return cls(names, {fold(name): place for place, name in enumerate(names)}, between)

    def encode(self, rows: Rows, column: str, *, hint: str = "") -> NDArray[np.int8]:
        """0 or 1 for each row and label, (n, labels). Raises DataError about labels that are missing, unknown, or twice in a row."""
        cells = codes(rows)
        if None in cells.names:
            refuse_missing(rows, column, np.flatnonzero(cells.codes == cells.names.index(None)), hint=EMPTY_HINT)
        between = separator_in(rows, self.separator, self.ids)
        each = np.zeros((len(cells.names), len(self.names)), np.int8)
        for place, cell in enumerate(cells.names):
            labels = labels_of(str(cell), between)
            known = [self.ids[fold(label)] for label in labels if fold(label) in self.ids]
            if len(known) < len(labels):
                raise self.unknown(rows, [label for label in labels if fold(label) not in self.ids], place, hint)
            if len(set(known)) < len(known):
                what = f"the labels {clipped(', '.join(labels))} name one twice"
                raise rows.refuse(
                    np.flatnonzero(cells.codes == place),
                    what,
                    valid="each label once",
                    hint="lists of a 0 or 1 for each label are columns: task.label_columns"
                    if set(labels) <= {"0", "1"}
                    else "",
                )
            each[place, known] = 1
        return each[cells.codes]

    def unknown(self, rows: Rows, labels: Sequence[str], place: int, hint: str) -> DataError:
        """The message about labels that are none of ours, of the rows whose labels are at ``place``."""
        which = ", ".join(f"'{clipped(label)}'" for label in labels[:SHOWN])
        what = f"label {which} is not one of the {len(self.names)} labels"
        at = np.flatnonzero(codes(rows).codes == place)
        return rows.refuse(at, what, valid=clipped(", ".join(self.names)), hint=hint)

    @property
    def none(self) -> set[str]:
        """What a column without labels may hold: empty texts."""
        return {""}


def as_cell(value: Any) -> str | None:
    """The labels of a row as one text: a list as a JSON array, any other value as one text, None where it is missing."""
    if isinstance(value, list | tuple):
        labels = [written(label) for label in value]
        return None if None in labels else json.dumps(labels, ensure_ascii=False)
    if isinstance(value, str):
        return value.strip()
    return written(value)


def labels_of(cell: str, separator: str) -> list[str]:
    """The labels in a cell, as ``written`` has them."""
    listed = list_in(cell)
    if listed is not None:
        return listed
    parts = cell.split(separator) if separator else [cell]
    return [label for part in parts if (label := written(part)) is not None]


def list_in(cell: str) -> list[str] | None:
    """The labels of a list written as text, as JSON or Python have it; None where the cell is none."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            labels = [written(label) for label in read(cell)]
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        return [label for label in labels if label is not None]
    return None


def separator_in(rows: Rows, separator: str | None, known: dict[str, int] | None = None) -> str:
    """What is between labels in the texts of ``rows``: ``separator`` where it is given, else the one of SEPARATORS that occurs.

    known: where each text is one of these labels, none does. Raises DataError where several occur.
    """
    if separator is not None:
        return separator
    texts = [cell for cell in codes(rows).names if cell and list_in(cell) is None]
    if known and all(fold(written(text) or text) in known for text in texts):
        return ""
    there = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if len(there) > 1:
        example = next(text for text in texts if there[0] in text)
        what = (
            f"{rows.path}: labels may be separated by {' or '.join(SAID[mark] for mark in there)}: {clipped(example)}"
        )
        raise DataError(what, key="task.label_separator", hint=f'task.label_separator="{there[0]}"')
    return there[0] if there else ""


def separator_hint(separator: str) -> str:
    """What to try where far too many labels were found."""
    return "" if separator else 'task.label_separator=" ", or what else is between the labels of a row'


def joined(labels: Sequence[str], names: Sequence[str]) -> str:
    """Labels as a text that is read again as the same labels, whatever the ``names`` of all labels are."""
    free = [mark for mark in SEPARATORS if not any(mark in name for name in names)]
    return free[0].join(labels) if free else json.dumps(list(labels), ensure_ascii=False)
