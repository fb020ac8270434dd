"""A raw table to a split: a data set with the columns text, text_pair, label and idx, checked row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.tasks.labels import LabelMap, encode_numbers, unlabelled
from lorakit.tasks.readers import Table
from lorakit.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


def build_split(
    task: Task,
    table: Table,
    labels: LabelMap | None,
    *,
    label_optional: bool = False,
    empty_text: bool = False,
    keys: tuple[str, ...] = ("", ""),
    label_key: str = "",
    label_hint: str = "",
) -> Dataset:
    """The canonical form of ``table``.

    labels: None for regression; label_optional: the split may come without labels (test splits); empty_text: allow it
    (GLUE's QQP has some); keys, label_key: the recipe keys that named the columns; label_hint: what to try with an
    unknown label. Raises DataError about the first thing that is wrong, with the rows.
    """
    from datasets import Dataset, Features, Value

    columns: dict[str, list[str] | list[int] | list[float]] = {}
    features = {}
    for name, source, key in zip(("text", "text_pair"), task.text, keys, strict=False):
        columns[name] = text_column(table, source, key, empty_text)
        features[name] = Value("string")
    if not (label_optional and unlabelled(table, task.label, labels)):
        table.column(task.label, label_key)
        if labels is None:
            columns["label"] = encode_numbers(table, task.label)
        else:
            columns["label"] = labels.encode(table, task.label, hint=label_hint)
        features["label"] = Value("float32" if labels is None else "int64")
    columns["idx"] = (
        [int(i) for i in table.columns["idx"]] if task.hub and "idx" in table.columns else list(range(len(table)))
    )
    features["idx"] = Value("int64")
    return Dataset.from_dict(columns, features=Features(features))


def text_column(table: Table, column: str, key: str, empty_text: bool) -> list[str]:
    """The texts of a column. Raises DataError about rows without text."""
    values = table.column(column, key)
    missing = [row for row, value in enumerate(values) if value is None]
    if not empty_text:
        missing = [
            row for row, value in enumerate(values) if value is None or (isinstance(value, str) and not value.strip())
        ]
    if missing:
        rows = "row has" if len(missing) == 1 else "rows have"
        raise table.refuse(missing, f"{len(missing):,} {rows} no text in column '{column}'")
    wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        kind = type(values[wrong[0]]).__name__
        raise table.refuse(wrong, f"column '{column}' holds a {kind} where text is needed: {values[wrong[0]]!r}")
    return values
