"""The order in which a training sees its rows: a pure function of the seed and the epoch, so that it can start anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.recipe.schema import TrainingSection
from lorakit.tasks.batching import IDLE, PARTS, Batch, Encoded, epoch_batches, evaluation_batches
from lorakit.training.losses import row_scale, scaled

ASIDE_STREAM = 5
"""Keeps the draw of rows that are set aside apart from the other draws of the same seed."""


@dataclass(frozen=True)
class StepBatch:
    """What one optimiser step sees.

    batches: this process's part of ``accumulate`` batches, each cut where ``micro_tokens`` says, and behind them what is passed for
    the others alone (``IDLE``); rows: of all that count, on all processes.
    """

    batches: list[Batch]
    rows: int


@dataclass(frozen=True)
class TrainLoader:
    """The training rows, batched for one of ``processes`` processes, padded to a length that ``multiple`` divides.

    in_step: whether all processes pass equally many batches, as sharded weights need it, or one may pass fewer;
    weights: of the classes (classes,); with them each batch says what makes a mean over its step's rows one over their weights;
    numbered: whether each says which pieces of the tokens it holds; chosen: the rows that there are for it, all of them by default.
    """

    encoded: Encoded
    training: TrainingSection
    seed: int
    process: int = 0
    processes: int = 1
    multiple: int = 1
    in_step: bool = False
    weights: NDArray[np.float64] | None = None
    numbered: bool = False
    chosen: NDArray[np.int64] | None = None

    def parted(self, aside: int) -> tuple[TrainLoader, TrainLoader]:
        """Two loaders without a row in common: of ``aside`` rows that the seed draws, and of the others, which come first."""
        drawn = np.random.default_rng([ASIDE_STREAM, self.seed]).permutation(len(self.encoded))
        return replace(self, chosen=np.sort(drawn[aside:])), replace(self, chosen=np.sort(drawn[:aside]))

    @property
    def every_row(self) -> NDArray[np.int64]:
        """The rows that there are."""
        return np.arange(len(self.encoded)) if self.chosen is None else self.chosen

    def step_batches(self, epoch: int, skip: int = 0) -> Iterator[StepBatch]:
        """The epoch's steps in order, without the first ``skip``. Each batch is split over the processes row by row."""
        batches, accumulate = self.batches(epoch), self.training.accumulate
        for start in range(skip * accumulate, len(batches), accumulate):
            step_batch = batches[start : start + accumulate]
            mine = self.parts(step_batch, self.process)
            others = range(self.processes) if self.in_step else ()
            passes = max([1, len(mine), *(len(self.parts(step_batch, process)) for process in others)])
            whole = [row for rows in step_batch for row in rows]
            passed = [self.collate(rows, whole, self.multiple) for rows in mine]
            for _ in range(passes - len(mine)):
                one = self.collate(step_batch[0][:1], whole, self.multiple)
                passed.append({**one, IDLE: torch.ones(1, dtype=torch.bool)})
            yield StepBatch(passed, len(whole))

    def parts(self, step_batch: list[list[int]], process: int) -> list[list[int]]:
        """The rows of each pass that is ``process``'s part of a step."""
        shares = [rows[process :: self.processes] for rows in step_batch]
        return [part for share in shares if share for part in self.cut(share)]

    def cut(self, rows: list[int]) -> list[list[int]]:
        """A batch's rows in parts of at most ``micro_tokens`` tokens, padding included, the longest first; one row alone may have more.

        Where they fit as they are they stay as they are.
        """
        limit = self.training.micro_tokens
        if limit is None or self.encoded.tokens_of(rows, self.multiple) <= limit:
            return [rows]
        parts: list[list[int]] = []
        for row in sorted(rows, key=lambda row: -self.encoded.lengths[row]):
            if parts and self.encoded.tokens_of([*parts[-1], row], self.multiple) <= limit:
                parts[-1].append(row)
            else:
                parts.append([row])
        return parts

    def collate(self, rows: list[int], whole: list[int], multiple: int = 1) -> Batch:
        """These rows as a batch of a step over the rows ``whole``."""
        batch = self.encoded.collate(rows, multiple)
        if self.numbered:
            batch[PARTS] = torch.from_numpy(self.encoded.parts(rows)[0])
        if self.weights is None or self.encoded.labels is None:
            return batch
        return scaled(batch, row_scale(self.weights, self.encoded.labels[whole]))

    def batches(self, epoch: int) -> list[list[int]]:
        """The epoch's batches, of all processes."""
        section, lengths = self.training, self.encoded.lengths
        if self.chosen is not None:
            lengths = lengths[self.chosen]
        batches = epoch_batches(lengths, section.batch_size, seed=self.seed, epoch=epoch, group=section.length_grouping)
        return batches if self.chosen is None else [self.chosen[places].tolist() for places in batches]

    def rows(self, epoch: int, place: int) -> list[int]:
        """What step number ``place`` of an epoch sees, of all processes: the rows' numbers at their source."""
        accumulate = self.training.accumulate
        step_batch = self.batches(epoch)[place * accumulate : (place + 1) * accumulate]
        return [int(self.encoded.idx[row]) for rows in step_batch for row in rows]

    def first(self, number: int, generator: torch.Generator) -> list[Batch]:
        """The first ``number`` batches in file order, always the same (the authors' scoring data)."""
        size = self.training.batch_size
        rows = self.every_row[: number * size].tolist()
        return [self.collate(part, part) for start in range(0, len(rows), size) if (part := rows[start : start + size])]

    def sample(self, number: int, generator: torch.Generator) -> list[Batch]:
        """``number`` batches of rows drawn without replacement, similar lengths together."""
        return self.sampled(self.drawn(number, generator))

    def halves(self, number: int, generator: torch.Generator) -> tuple[list[Batch], list[Batch]]:
        """Twice ``number`` batches, or as many as there are rows for, without a row in common."""
        rows = self.drawn(2 * number, generator)
        return self.sampled(rows[::2]), self.sampled(rows[1::2])

    def drawn(self, number: int, generator: torch.Generator) -> list[int]:
        """The rows of ``number`` batches, without replacement."""
        rows = self.every_row
        places = torch.randperm(len(rows), generator=generator)[: number * self.training.batch_size]
        drawn: list[int] = rows[places.numpy()].tolist()
        return drawn

    def sampled(self, rows: list[int]) -> list[Batch]:
        """Rows that were drawn as batches, similar lengths together."""
        lengths = [self.encoded.lengths[row] for row in rows]
        parts = [[rows[place] for place in places] for places in evaluation_batches(lengths, self.training.batch_size)]
        return [self.collate(part, part) for part in parts]
