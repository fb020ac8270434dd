"""Parquet to tables, a chunk of rows at a time, with whatever pyarrow raises told as one mistake of the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import DataError
from lorakit.tasks.table import CHUNK, Table, clipped, refuse_twice

if TYPE_CHECKING:
    from pyarrow import RecordBatch


def read_parquet(*paths: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """One parquet file, or the shards of one split in order; rows are counted from the first shard on."""
    import pyarrow.parquet as parquet

    first = 1
    for path in paths:
        with readable(path):
            file = parquet.ParquetFile(path, pre_buffer=False)
            names: list[str] = file.schema_arrow.names
            refuse_twice(names, str(path))
            kept = [name for name in names if wanted is None or name in wanted]
            batches = file.iter_batches(CHUNK, columns=kept)
        yield Table(str(paths[0]), {name: [] for name in kept}, [], "row", names=names)
        while True:
            with readable(path):
                batch = next(batches, None)
            if batch is None:
                break
            numbers = range(first, first + batch.num_rows)
            columns = {name: arrow_values(batch, name, path, numbers) for name in kept}
            yield Table(str(paths[0]), columns, numbers, "row", names=names)
            first += batch.num_rows


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a parquet file that is damaged, or none at all, raises into a DataError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable parquet file: {first_line(error)}", where=str(path)) from error


def arrow_values(batch: RecordBatch, name: str, path: Path, numbers: range) -> list[Any]:
    """A column's values in Python. Raises DataError where it holds what it should not, or what Python cannot hold."""
    from pyarrow import ArrowException

    column = batch.column(batch.schema.names.index(name))
    try:
        column.validate(full=True)
        values: list[Any] = column.to_pylist()
    except (ArrowException, ValueError, OverflowError) as error:
        what = (
            f"column '{name}' ({column.type}) cannot be read, rows {numbers[0]} to {numbers[-1]}: {first_line(error)}"
        )
        raise DataError(what, where=str(path)) from error
    return values


def first_line(error: Exception) -> str:
    """What a library says, without the stack that it may add."""
    return clipped(str(error).strip().split("\n")[0]) or type(error).__name__
