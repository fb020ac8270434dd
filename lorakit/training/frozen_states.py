"""What the frozen lower layers make of each row: computed once, mapped from disk, and given to the layers above in every epoch.

The states of a row are a function of that row alone: computed by itself, without padding, in evaluation mode, and rounded to what is
stored. So a run that keeps them and one that computes them anew in every step train on the same numbers, to the bit, whatever rows
share a batch. (On a GPU rows of one length are computed together, because single ones would mostly wait, and two such runs are the same
to rounding.) Nothing is kept where a row is seen once only, or where there is no room.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from lorakit.backbone.lower_layers import LowerLayers, modules_below
from lorakit.backbone.quantised import quantised_modules
from lorakit.errors import DataError
from lorakit.tasks.batching import PARTS, Batch, Encoded, SummedLoss
from lorakit.tasks.cache import PART, cache_dir, cached
from lorakit.training.objective import Objective

logger = logging.getLogger(__name__)

GIB = 2**30
NAME = "states-"
"""What names of entries in the cache begin with; they are the only ones that are deleted to make room."""
FILE = "states.bin"
TOGETHER = 16_384
"""Tokens of rows of one length that a GPU computes at once."""
TELL_EVERY = 10  # seconds
OF_THE_HEAD = (
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "_name_or_path",
    "transformers_version",
    "architectures",
    "use_cache",
)
"""What of a configuration has nothing to do with the layers."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class FrozenStates:
    """The states of a split's pieces of tokens (rows, or windows of them).

    stored: (tokens, width), mapped; None where they are computed in every step. seconds: what computing and storing them took; told: how
    it is, in words; dtype: what they are rounded to; own: what they come as.
    """

    lower: LowerLayers
    encoded: Encoded
    objective: Objective
    dtype: torch.dtype
    own: torch.dtype
    width: int
    stored: torch.Tensor | None = None
    seconds: float = 0.0
    told: str = ""

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss of numbered batches from their states; of any other batch as it was."""

        def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
            if PARTS not in batch:
                return loss(model, batch)
            with self.lower.stood_in_for(self.of(batch)):
                return loss(model, batch)

        return summed

    def of(self, batch: Batch) -> torch.Tensor:
        """The states of a numbered batch (lines, length, width) on its device, zeros at its padding."""
        parts: list[int] = batch[PARTS].tolist()
        lengths = self.encoded.offsets[1:] - self.encoded.offsets[:-1]
        found = torch.zeros(len(parts), batch["input_ids"].shape[1], self.width, dtype=self.dtype)
        each = self.read(parts) if self.stored is not None else self.compute(parts)
        for places, states in each:
            for place, rows in zip(places, states, strict=True):
                found[place, : lengths[parts[place]]] = rows
        return found.to(self.objective.accelerator.device, self.own)

    def read(self, parts: Sequence[int]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """([place among ``parts``], [states]) of each, as they are stored."""
        assert self.stored is not None
        for place, part in enumerate(parts):
            yield [place], [self.stored[self.encoded.offsets[part] : self.encoded.offsets[part + 1]]]

    def compute(self, parts: Sequence[int]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """([places among ``parts``], states (places, length, width)) of those that are computed together, rounded, on the CPU."""
        run = partial(self.objective.logits, self.lower.backbone.model)
        for places in self.groups(parts):
            states = self.lower.states(self.encoded.unpadded([parts[place] for place in places]), run)
            yield places, states.to(self.dtype).cpu()

    def groups(self, parts: Sequence[int]) -> list[list[int]]:
        """Places among ``parts`` that are computed together: each by itself, on a GPU those of one length."""
        if self.objective.accelerator.device.type == "cpu":
            return [[place] for place in range(len(parts))]
        chosen = np.asarray(parts)
        lengths = self.encoded.offsets[chosen + 1] - self.encoded.offsets[chosen]
        groups = []
        for length in np.unique(lengths).tolist():
            places, size = np.flatnonzero(lengths == length).tolist(), max(TOGETHER // length, 1)
            groups += [places[start : start + size] for start in range(0, len(places), size)]
        return groups

    def record(self) -> dict[str, float]:
        """What a summary says of them."""
        kept = self.bytes if self.stored is not None else 0
        layers = len(self.lower.backbone.anatomy.layers)
        return {"layers": self.lower.count, "of": layers, "bytes": kept, "seconds": self.seconds}

    # -- on disk --------------------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """What they take on disk."""
        return int(self.encoded.offsets[-1]) * self.width * self.dtype.itemsize

    def store(self, limit: float) -> None:
        """Compute all of them, or find them in the cache, and map them; unless they take more than ``limit`` GiB, which is said.

        Every process may call it, those of one machine one after the other: the first one computes. An entry is there whole or not.
        """
        size, room = f"{self.bytes / GIB:.2f} GiB", free_bytes()
        if self.bytes > min(limit * GIB, room):
            allowed = self.bytes <= limit * GIB
            why = f"{room / GIB:.2f} are free" if allowed else f"training.freeze_cache allows {limit:g}"
            self.told = f"their states, {size}, are computed in every step: {why}"
            return
        begun, entry = time.perf_counter(), NAME + self.key()
        try:
            with cached(entry, self.fill) as folder:
                shape = int(self.encoded.offsets[-1]), self.width
                flat = torch.from_file(str(folder / FILE), shared=False, size=shape[0] * shape[1], dtype=self.dtype)
                self.stored = flat.view(shape)
                if not folder.name.endswith(PART):
                    os.utime(folder)
        except DataError as error:  # the disk filled up meanwhile
            self.told = f"their states, {size}, are computed in every step: {error.problems[0].what}"
            return
        make_room(limit, entry)
        self.seconds = time.perf_counter() - begun
        self.told = f"their states, {size}, were kept on disk, which took {self.seconds:.1f} s"

    def fill(self, folder: Path) -> None:
        """Write the states of all pieces, in their order."""
        parts = range(len(self.encoded.offsets) - 1)
        row_bytes, done, spoken = self.width * self.dtype.itemsize, 0, time.monotonic()
        logger.info("the states of %s rows behind layer %d are computed", f"{len(parts):,}", self.lower.count - 1)
        with (folder / FILE).open("wb") as file:
            for places, states in self.compute(parts):
                for place, rows in zip(places, states, strict=True):
                    file.seek(int(self.encoded.offsets[place]) * row_bytes)
                    file.write(rows.contiguous().view(torch.uint8).numpy().tobytes())
                done += len(places)
                if time.monotonic() - spoken > TELL_EVERY:
                    spoken = time.monotonic()
                    logger.info("states of %s of %s rows are there", f"{done:,}", f"{len(parts):,}")

    def key(self) -> str:
        """A digest of all that the states depend on: weights, architecture, rows, precision, and what computes them."""
        accelerator, backbone = self.objective.accelerator, self.lower.backbone
        device = accelerator.device
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        facts = {
            "layers": self.lower.count,
            "config": {k: v for k, v in backbone.model.config.to_dict().items() if k not in OF_THE_HEAD},
            "attention": backbone.model.config._attn_implementation,
            "precision": accelerator.mixed_precision,
            "dtype": str(self.dtype),
            "products": sorted({str(module.compute_dtype) for module in quantised_modules(backbone.model)}),
            "on": [device.type, machine, torch.__version__, transformers.__version__],
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for array in (self.encoded.tokens, self.encoded.offsets, self.encoded.types):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        seen: set[int] = set()
        for module in modules_below(backbone, self.lower.count):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:40]


def frozen_states(
    lower: LowerLayers, encoded: Encoded, objective: Objective, dtype: str, *, limit: float, once: bool
) -> FrozenStates:
    """The states of the rows, kept where they are wanted more than ``once`` and take no more than ``limit`` GiB.

    dtype: one of DTYPES, or own. RecipeError where the model cannot be cut at that layer.
    """
    run = partial(objective.logits, lower.backbone.model)
    shortest = int(np.argmin(encoded.offsets[1:] - encoded.offsets[:-1]))
    sample = encoded.unpadded([shortest])
    lower.check(sample, run)
    states = lower.states(sample, run)
    own: Any = states.dtype
    found = FrozenStates(lower, encoded, objective, DTYPES.get(dtype, own), own, states.shape[-1])
    if once:
        found.told = "their states are computed as they are needed: every row is seen once"
        return found
    with objective.accelerator.local_main_process_first():
        found.store(limit)
    return found


def free_bytes() -> int:
    """The room on the disk of the cache, or of temporary files where there is none."""
    folder = cache_dir() or Path(tempfile.gettempdir())
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def make_room(limit: float, kept: str) -> None:
    """Delete the states that were used longest ago, of other runs, until all together take no more than ``limit`` GiB."""
    folder = cache_dir()
    if folder is None or not folder.is_dir():
        return
    entries = [path for path in folder.glob(f"{NAME}*") if not path.name.endswith(PART) and path.is_dir()]
    entries.sort(key=lambda path: (path.name == kept, path.stat().st_mtime))
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
    for path in entries[:-1] if kept in {path.name for path in entries} else entries:
        if sum(sizes.values()) > limit * GIB:
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]
