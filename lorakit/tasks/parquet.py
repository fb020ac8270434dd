"""Parquet to tables, a chunk of rows at a time, with whatever pyarrow raises told as one mistake of the file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from lorakit.errors import DataError
from lorakit.tasks.arrow_columns import ArrowColumns, first_line
from lorakit.tasks.table import CHUNK, Table, refuse_twice
from lorakit.tasks.unpacking import open_bytes, packing_of


def read_parquet(*paths: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """One parquet file, or the shards of one split in order; rows are counted from the first shard on."""
    import pyarrow.parquet as parquet

    first = 1
    for path in paths:
        with ExitStack() as stack:
            source = stack.enter_context(unpacked(path)) if packing_of(path) else path
            with readable(path):
                file = parquet.ParquetFile(source, pre_buffer=False)
                refuse_twice(file.schema_arrow.names, str(path))
                columns = ArrowColumns.of(str(paths[0]), file.schema_arrow, wanted)
                batches = file.iter_batches(CHUNK, columns=list(columns.kept))
            yield columns.empty()
            while True:
                with readable(path):
                    batch = next(batches, None)
                if batch is None:
                    break
                yield columns.read(batch, range(first, first + batch.num_rows), str(path))
                first += batch.num_rows


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """A packed file's content as a file on disk, in which one can go back and forth."""
    with tempfile.TemporaryFile() as file:
        with open_bytes(path) as content:
            shutil.copyfileobj(content, file)
        yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a parquet file that is damaged, or none at all, raises into a DataError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable parquet file: {first_line(error)}", where=str(path)) from error
