"""The rows of a file to a split: a data set with the columns text, text_pair, label and idx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorakit.tasks.label_sets import LabelSets
from lorakit.tasks.labels import LabelMap, unlabelled
from lorakit.tasks.rows import Columns, Rows

if TYPE_CHECKING:
    from datasets import Dataset


def build_split(rows: Rows, columns: Columns, labels: LabelMap | LabelSets | None, *, label_hint: str = "") -> Dataset:
    """The canonical form of ``rows``; its texts stay where they are, in memory or on disk.

    labels: None for regression; label_hint: what to try with an unknown label. Several labels a row are a list of 0 and 1. Raises
    DataError about labels that are missing or not in the map, with the rows.
    """
    import pyarrow as arrow
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint
    from datasets.table import InMemoryTable

    table = rows.texts
    if not (columns.label_optional and unlabelled(rows, labels)):
        values: Any = rows.labels if labels is None else labels.encode(rows, columns.labelled_by, hint=label_hint)
        several = isinstance(labels, LabelSets)
        table = table.append_column(
            "label",
            arrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
            if several
            else arrow.array(values),
        )
    whole = InMemoryTable(table.append_column("idx", arrow.array(rows.idx)))
    # Without a fingerprint one is made by pickling the table, texts and all.
    return Dataset(whole, fingerprint=generate_random_fingerprint())
