"""Rows of large files are read once: what was taken from them goes to the cache as it is read, and is mapped from there."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lorakit.errors import DataError
from lorakit.tasks.cache import cached
from lorakit.tasks.labels import Codes
from lorakit.tasks.rows import TEXTS, Columns, Rows, gather
from lorakit.tasks.table import Table

logger = logging.getLogger(__name__)

LARGE = 2**23  # bytes of files; smaller ones are read in less time than it takes to look into the cache
VERSION = 2  # of the reading of rows; another version finds nothing in the cache
REST = "rest.json"


class Source(Protocol):
    """Where the rows of a split come from."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def parts(self) -> Sequence[str]:
        """What messages call each of its files."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def packed(self) -> bool:
        """Whether it may hold far more than that."""

    def digest(self) -> str:
        """The sha256 of all that decides what is read."""

    def tables(self, columns: Columns) -> Iterator[Table]:
        """The rows, in order."""


def read_rows(source: Source, columns: Columns) -> Rows:
    """The rows of a source. Raises DataError about anything wrong with it."""
    size = source.size
    if size < LARGE and not source.packed:
        return gather(source.tables(columns), columns, name=source.name)
    content = source.digest()
    settings = hashlib.sha256(repr((VERSION, content, columns)).encode())

    def build(folder: Path) -> None:
        if size >= LARGE:
            logger.info("reading %s, %s MB: the first time", source.name, f"{size / 1e6:,.0f}")
        save(gather(source.tables(columns), columns, folder, name=source.name), folder)
        if source.digest() != content:
            raise DataError("the file was changed while it was read", where=source.name)

    with cached(f"rows-{settings.hexdigest()}", build) as folder:
        return load(folder, source)


def save(rows: Rows, folder: Path) -> None:
    """Write all but the texts, which are there."""
    rest: dict[str, Any] = {name: getattr(rows, name) for name in ("names", "unit", "skipped", "classes", "notes")}
    rest |= {"labels": None, "starts": [start for _, start in rows.parts]}
    arrays: dict[str, NDArray[Any]] = {"numbers": rows.numbers, "idx": rows.idx}
    if isinstance(rows.labels, Codes):
        rest["labels"], arrays["labels"] = rows.labels.names, rows.labels.codes
    elif rows.labels is not None:
        arrays["labels"] = rows.labels
    (folder / REST).write_text(json.dumps(rest), encoding="utf-8")
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path, source: Source) -> Rows:
    """The rows of ``source`` as ``save`` wrote them, maybe for a copy of it elsewhere."""
    import pyarrow as arrow

    rest = json.loads((folder / REST).read_text(encoding="utf-8"))
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    labels = arrays.get("labels")
    return Rows(
        path=source.name,
        names=tuple(rest["names"]),
        texts=arrow.ipc.open_stream(arrow.memory_map(str(folder / TEXTS))).read_all(),
        labels=labels if rest["labels"] is None or labels is None else Codes(tuple(rest["labels"]), labels),
        numbers=arrays["numbers"],
        idx=arrays["idx"],
        unit=rest["unit"],
        skipped=tuple(rest["skipped"]),
        parts=tuple(zip(source.parts, rest["starts"], strict=True)),
        classes=tuple(rest["classes"]),
        notes=tuple(rest["notes"]),
    )
