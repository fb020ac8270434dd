"""Text to tokens, and rows to batches. Nothing is padded before its batch is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lorakit.errors import DataError
from lorakit.tasks.long_texts import Cut
from lorakit.tasks.table import short
from lorakit.tasks.tokens import Progress, Tokens, row_places, tokenise

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Batch = Mapping[str, torch.Tensor]
"""What ``Encoded.collate`` gives: input_ids, attention_mask, maybe token_type_ids and labels; for training maybe ROW_SCALE."""
ROW_SCALE = "row_scale"
"""What each row's loss is taken times (rows,), where classes have weights."""
SummedLoss = Callable[[nn.Module, Batch], torch.Tensor]
"""(model, batch) -> the loss summed over the batch's rows."""

Lengths = Sequence[int] | NDArray[np.int64]

IDLE = "idle"
"""In a batch that counts nothing: a process without rows passes it so that the others need not wait."""
PARTS = "parts"
"""Which pieces of a split's tokens the lines of a batch are (lines,), where the training has what the lower layers make of them."""

WINDOW_OF = "window_of"
"""What a batch of windows calls the row that each is of."""

MEGA_BATCH = 50  # batches whose rows are sorted by length together
MIN_MEGA_BATCHES = 4  # but always several of those, so that small sets are still mixed
ORDER_STREAM = 3  # keeps the order's draw apart from the other draws of the same seed


@dataclass(frozen=True)
class Padding:
    """How rows of different lengths become one batch; what a model's head needs is known to its backbone.

    left: the side that is padded; spare: how many positions are padded beside the longest row too; multiple: what the length of a
    batch is a multiple of; equal: whether only rows of one length share a batch where they are predicted, because the model takes
    padding for text.
    """

    left: bool = False
    spare: int = 0
    multiple: int = 1
    equal: bool = False

    @property
    def ours_alone(self) -> bool:
        """Whether a text alone is padded too, which nothing but lorakit does."""
        return self.spare > 0 or self.multiple > 1


@dataclass
class Encoded:
    """A tokenised split. Rows lie end to end: row i is ``tokens[offsets[i]:offsets[i + 1]]``.

    lengths: tokens per row; labels: (n,) long, float32 for regression, (n, labels) int8 of 0 and 1 for several labels a row, None
    where unlabelled; idx: the rows' numbers at
    the source; truncated: rows that lost tokens to max_length; special: rows in whose text a token such as ``</s>`` is written
    (``plain_text``); types: token types, None where the tokenizer makes none;
    pads: what pads input_ids and token_type_ids; padding: where; windows (n + 1,): of rows that are read in windows, which then are
    what ``offsets`` tells apart, those of row i are ``windows[i]`` to ``windows[i + 1]``.
    """

    lengths: NDArray[np.int64]
    labels: torch.Tensor | None
    idx: NDArray[np.int64]
    truncated: int
    special: int
    tokens: NDArray[np.int32]
    types: NDArray[np.int8] | None
    offsets: NDArray[np.int64]
    pads: tuple[int, int]
    padding: Padding
    windows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def collate(self, rows: Sequence[int], multiple: int = 1) -> dict[str, torch.Tensor]:
        """These rows as one batch, padded to the longest of them, or to the next ``multiple``.

        input_ids, attention_mask and (if the tokenizer makes them) token_type_ids: (len(rows), length) long; labels:
        (len(rows),), or (len(rows), labels). Of rows in windows, a line for each window, and which row of the batch it is of: (windows,).
        """
        parts, window_of = self.parts(rows)
        lengths = (self.offsets[parts + 1] - self.offsets[parts]).tolist()
        shape = self.shape(parts, multiple)
        tokens, mask = np.full(shape, self.pads[0], np.int64), np.zeros(shape, np.int64)
        types = None if self.types is None else np.full(shape, self.pads[1], np.int64)
        for at, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            source = slice(self.offsets[part], self.offsets[part + 1])
            place = slice(shape[1] - length, None) if self.padding.left else slice(length)
            tokens[at, place], mask[at, place] = self.tokens[source], 1
            if types is not None and self.types is not None:
                types[at, place] = self.types[source]
        batch = {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
        if types is not None:
            batch["token_type_ids"] = torch.from_numpy(types)
        if self.labels is not None:
            batch["labels"] = self.labels[list(rows)]
        if window_of is not None:
            batch[WINDOW_OF] = torch.from_numpy(window_of)
        return batch

    def unpadded(self, parts: Sequence[int]) -> dict[str, torch.Tensor]:
        """Pieces of ``tokens`` that have one length, as a batch without padding: what the model reads, each (len(parts), length) long."""
        places = [slice(self.offsets[part], self.offsets[part + 1]) for part in parts]
        ids = np.stack([self.tokens[place] for place in places]).astype(np.int64)
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(ids.shape, dtype=torch.long)}
        if self.types is not None:
            types = np.stack([self.types[place] for place in places]).astype(np.int64)
            batch["token_type_ids"] = torch.from_numpy(types)
        return batch

    def tokens_of(self, rows: Sequence[int], multiple: int = 1) -> int:
        """How many tokens these rows are as one batch (``collate``), padding too."""
        return math.prod(self.shape(self.parts(rows)[0], multiple))

    def shape(self, parts: NDArray[np.int64], multiple: int) -> tuple[int, int]:
        """Lines and their padded length in a batch of these pieces of ``tokens``."""
        unit, longest = (
            math.lcm(multiple, self.padding.multiple),
            int((self.offsets[parts + 1] - self.offsets[parts]).max()),
        )
        return len(parts), -(-(longest + self.padding.spare) // unit) * unit

    def parts(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Which pieces of ``tokens`` the rows are, and of rows in windows, the place among ``rows`` that each belongs to."""
        chosen = np.asarray(list(rows), np.int64)
        if self.windows is None:
            return chosen, None
        first, last = self.windows[chosen], self.windows[chosen + 1]
        found = [np.arange(start, stop) for start, stop in zip(first, last, strict=True)]
        return np.concatenate(found), np.repeat(np.arange(len(chosen)), last - first)

    def batches(self, batch_size: int) -> list[list[int]]:
        """All rows as batches to predict (``evaluation_batches``)."""
        return evaluation_batches(self.lengths, batch_size, equal=self.padding.equal)


def encode(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    cut: Cut | int,
    name: str = "",
    progress: Progress | None = None,
    padding: Padding | None = None,
) -> Encoded:
    """Tokenise a split (columns text, text_pair, label, idx), each row as ``cut`` says; a number is that of tokens kept.

    The tokenizer must have a pad token. ``name`` tells the split in messages; ``progress`` is told how many rows are
    tokenised, where that has to be done; ``padding`` is the tokenizer's side where it is not given. Raises DataError where
    max_length leaves no room for text, or a row has no tokens.
    """
    cut = cut if isinstance(cut, Cut) else Cut(cut)
    pair = "text_pair" in dataset.column_names
    special = tokenizer.num_special_tokens_to_add(pair)
    if cut.length <= special + pair:
        raise DataError(
            f"{cut.length} tokens leave no room for text", key="task.max_length", valid=f"{special + pair + 1} or more"
        )
    made = tokenise(dataset, tokenizer, cut, progress)
    if (bare := np.flatnonzero(row_lengths(made) == 0)).size:
        row = dataset[int(bare[0])]
        raise DataError(f"row {row['idx']} of {name or 'the split'} has no tokens: {short(row['text'])}")
    idx = column_array(dataset, "idx")
    return encoded_rows(made, tokenizer, idx=idx, labels=label_tensor(dataset), padding=padding)


def encoded_rows(
    made: Tokens,
    tokenizer: PreTrainedTokenizerBase,
    *,
    idx: NDArray[np.int64] | None = None,
    labels: torch.Tensor | None = None,
    padding: Padding | None = None,
) -> Encoded:
    """Rows of tokens, ready to be batched; those without an idx are counted."""
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token")
    lengths = row_lengths(made)
    return Encoded(
        lengths=lengths,
        labels=labels,
        idx=np.arange(len(lengths)) if idx is None else idx,
        truncated=made.truncated,
        special=made.special,
        tokens=made.tokens,
        types=made.types,
        offsets=np.concatenate([[0], np.cumsum(made.lengths, dtype=np.int64)]),
        pads=(tokenizer.pad_token_id, tokenizer.pad_token_type_id),
        padding=padding or Padding(left=tokenizer.padding_side == "left"),
        windows=None if made.counts is None else np.concatenate([[0], np.cumsum(made.counts, dtype=np.int64)]),
    )


def row_lengths(made: Tokens) -> NDArray[np.int64]:
    """Tokens of each row (n,), those of all its windows together."""
    if made.counts is None:
        return made.lengths
    row = np.repeat(np.arange(len(made.counts)), made.counts)
    return np.bincount(row, made.lengths, len(made.counts)).astype(np.int64)


def label_tensor(dataset: Dataset) -> torch.Tensor | None:
    """Labels (n,): long for classes, float32 for numbers, None where the split has none; (n, labels) int8 for several labels a row."""
    if "label" not in dataset.column_names:
        return None
    if hasattr(dataset.data.column("label").type, "list_size"):
        return torch.from_numpy(label_array(dataset))
    dtype = np.float32 if dataset.features["label"].dtype.startswith("float") else np.int64
    return torch.from_numpy(column_array(dataset, "label").astype(dtype))


def label_array(dataset: Dataset) -> NDArray[np.int8]:
    """Several labels a row, (n, labels) of 0 and 1."""
    column = dataset.data.column("label")
    values = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return chosen_rows(dataset, values.reshape(-1, column.type.list_size)).astype(np.int8)


def column_array(dataset: Dataset, name: str) -> NDArray[Any]:
    """A column of numbers (n,)."""
    return chosen_rows(dataset, dataset.data.column(name).to_numpy())


def chosen_rows(dataset: Dataset, values: NDArray[Any]) -> NDArray[Any]:
    """Of the values of the whole table those of the split's rows."""
    chosen = row_places(dataset)
    return values if chosen is None else values[chosen]


def epoch_batches(lengths: Lengths, batch_size: int, *, seed: int, epoch: int, group: bool) -> list[list[int]]:
    """The batches of one epoch, as row numbers: every row exactly once, only the last batch shorter than ``batch_size``.

    A pure function of its arguments. With ``group``, rows of similar length share a batch: the shuffled rows are sorted
    within mega-batches of up to 50 batches, and then the batches are shuffled, so that the order tells nothing about
    length.
    """
    rng = np.random.default_rng([ORDER_STREAM, seed, epoch])
    order = rng.permutation(len(lengths))
    full = len(order) // batch_size
    head, tail = order[: full * batch_size], order[full * batch_size :].tolist()
    if group:
        sizes = np.asarray(lengths)
        width = batch_size * sorted_together(len(lengths), batch_size)
        parts = [head[start : start + width] for start in range(0, len(head), width)]
        head = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in parts] or [head])
    batches = head.reshape(full, batch_size)
    if group:
        batches = rng.permutation(batches)
    return batches.tolist() + ([tail] if tail else [])


def sorted_together(rows: int, batch_size: int) -> int:
    """How many batches' rows an epoch of ``rows`` rows sorts by length together."""
    return max(min(MEGA_BATCH, rows // batch_size // MIN_MEGA_BATCHES), 1)


def evaluation_batches(lengths: Lengths, batch_size: int, *, equal: bool = False) -> list[list[int]]:
    """All rows, the longest first, so that padding is least and too large a batch fails at once. Batches may be short.

    equal: the rows of a batch all have one length.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1) if equal else [order]
    return [run[start : start + batch_size].tolist() for run in runs for start in range(0, len(run), batch_size)]
