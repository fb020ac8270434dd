"""Training rows of somebody's own loop, drawn for a search as `lorakit train` draws its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import UsageError
from lorakit.recipe.schema import TrainingSection
from lorakit.tasks.batching import Encoded
from lorakit.training.loader import TrainLoader

OwnRows = Sequence[Any]
"""Anything with a length and rows by number: a list, a map-style data set of torch, a data set of Hugging Face."""
Collate = Callable[[list[Any]], Any]
"""Rows -> a batch."""


class Lengths:
    """The tokens of each row, looked at when it is asked for; all alike where rows have no ``input_ids``."""

    def __init__(self, rows: OwnRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> int:
        row = self.rows[int(place)]
        return len(row["input_ids"]) if isinstance(row, dict) and "input_ids" in row else 1


class Collated(Encoded):
    """Rows as ``TrainLoader`` knows them, which become a batch by a function of the person's."""

    def __init__(self, rows: OwnRows, collate: Collate):
        self.rows, self.made = rows, collate
        self.lengths = Lengths(rows)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.rows)

    def collate(self, rows: Sequence[int] | NDArray[np.int64], multiple: int = 1) -> Any:
        """These rows as one batch."""
        return self.made([self.rows[int(row)] for row in rows])


def loader_of(rows: OwnRows | None, collate: Collate | None, batch_size: int) -> TrainLoader:
    """The rows, to be drawn from. UsageError where there are none, or they cannot be counted."""
    if rows is None:
        raise UsageError("a search scores training rows, and none are given", hint="rows=DATASET, collate=FUNCTION")
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise UsageError(
            f"rows are drawn by their number, and a {type(rows).__name__} has none",
            valid="a list or a map-style data set",
        )
    return TrainLoader(Collated(rows, collate or stacked), TrainingSection(batch_size=batch_size), seed=0)


def stacked(rows: list[Any]) -> Any:
    """Rows as one batch by ``default_data_collator``. UsageError for rows that need padding, or are no mappings of numbers."""
    from transformers import default_data_collator

    try:
        return default_data_collator(rows)
    except (ValueError, TypeError, RuntimeError) as error:
        what = f"these rows do not make a batch by themselves: {error}"
        raise UsageError(what, hint="collate=FUNCTION, such as DataCollatorWithPadding(tokenizer)") from error
