"""Files of answers, written row by row: csv, jsonl or parquet by suffix. A file appears only when it is complete."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import UsageError
from lorakit.tasks.table import CHUNK, clipped

if TYPE_CHECKING:
    import pyarrow as arrow

Write = Callable[[Sequence[Any]], None]
"""Writes one row, a value for each column."""


@contextmanager
def answer_file(path: Path, names: Sequence[str]) -> Iterator[Write]:
    """A file with these columns, to write rows into. Raises UsageError about a suffix of no writer, and where none can be written."""
    writer = writer_of(path)
    part = path.with_name(path.name + ".part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writer(part, names) as write:
                yield write
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"answers cannot be written: {error.strerror or error}", where=str(path)) from error


def writer_of(path: Path) -> Callable[[Path, Sequence[str]], Any]:
    """What writes a file of this suffix. Raises UsageError where nothing does."""
    if path.suffix.lower() not in WRITERS:
        what = f"lorakit cannot write answers as '{path.suffix}'"
        raise UsageError(what, where=str(path), valid=", ".join(WRITERS))
    return WRITERS[path.suffix.lower()]


@contextmanager
def csv_writer(path: Path, names: Sequence[str]) -> Iterator[Write]:
    """Comma separated with a header; lists and objects as JSON."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        yield lambda row: writer.writerow([to_json(v) if isinstance(v, list | dict) else v for v in row])


@contextmanager
def jsonl_writer(path: Path, names: Sequence[str]) -> Iterator[Write]:
    """One object a line."""
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: print(to_json(dict(zip(names, row, strict=True))), file=file)


def to_json(value: Any) -> str:
    """A value on one line, dates and decimals as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


@contextmanager
def parquet_writer(path: Path, names: Sequence[str]) -> Iterator[Write]:
    """Columns of the types that the first rows have; one without any value there is text."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows: list[Sequence[Any]] = []
    writer: parquet.ParquetWriter | None = None

    def flush() -> None:
        nonlocal writer
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        schema = writer.schema if writer else None
        arrays = [as_array(name, values, schema) for name, values in zip(names, columns, strict=True)]
        batch = arrow.Table.from_arrays(arrays, names=list(names))
        writer = writer or parquet.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
        rows.clear()

    def write(row: Sequence[Any]) -> None:
        rows.append(row)
        if len(rows) == CHUNK:
            flush()

    try:
        yield write
        if rows or writer is None:
            flush()
    finally:
        if writer is not None:
            writer.close()


def as_array(name: str, values: Sequence[Any], schema: arrow.Schema | None) -> arrow.Array:
    """A column's values, of the type that it had before. Raises UsageError where they are of no one type."""
    import pyarrow as arrow

    try:
        found = arrow.array(values, schema.field(name).type if schema else None)
        return found.cast(arrow.string()) if arrow.types.is_null(found.type) else found
    except (arrow.ArrowException, OverflowError) as error:
        what = f"column '{name}' holds values of several types, which parquet cannot: {clipped(str(error))}"
        raise UsageError(what, valid="a .jsonl or .csv file") from error


WRITERS = {".csv": csv_writer, ".jsonl": jsonl_writer, ".parquet": parquet_writer}
