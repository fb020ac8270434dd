"""Files to tables: csv, tsv, jsonl and parquet, with the place of every row kept for messages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorakit.errors import DataError, nearest

SHOWN = 5  # row numbers spelt out in a message
csv.field_size_limit(2**31 - 1)  # the default refuses texts above 128 KiB


@dataclass
class Table:
    """The rows of one file as they are written there.

    path: the file; columns: values by column name, each of the same length; numbers: where each row is, counted from 1;
    unit: what numbers counts, "line" or "row"; skipped: lines that were left out because they are broken.
    """

    path: str
    columns: dict[str, list[Any]]
    numbers: Sequence[int]
    unit: str = "line"
    skipped: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str, key: str = "") -> list[Any]:
        """The values of column ``name``. Raises DataError with the choices; ``key`` is the recipe key that gave the name."""
        if name not in self.columns:
            hint = nearest(name, self.columns)
            only = next(iter(self.columns)) if len(self.columns) == 1 else ""
            separator = next((mark for mark in (";", "\t", "|") if mark in only), "")
            if separator:
                hint = f"the header looks separated by {separator!r}: save the file with commas, or tabs as .tsv"
            raise DataError(
                f"{self.path} has no column '{name}'", key=key, valid=", ".join(map(str, self.columns)), hint=hint
            )
        return self.columns[name]

    def select(self, rows: Sequence[int]) -> Table:
        """The table of these rows (positions), each still at its place in the file."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, numbers=[self.numbers[row] for row in rows])

    def refuse(self, rows: Sequence[int], what: str, *, valid: str = "", hint: str = "") -> DataError:
        """A DataError about these rows (positions in the table), telling the first few places."""
        return row_error(self.path, [self.numbers[row] for row in rows], what, unit=self.unit, valid=valid, hint=hint)


def row_error(
    path: str, numbers: Sequence[int], what: str, *, unit: str = "line", valid: str = "", hint: str = ""
) -> DataError:
    """A DataError at ``path`` about the lines or rows ``numbers``."""
    shown = ", ".join(str(number) for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
    where = f"{path}:{numbers[0]}" if unit == "line" else path
    return DataError(
        f"{what} ({unit}{'s' if len(numbers) > 1 else ''} {shown}{more})", where=where, valid=valid, hint=hint
    )


def read_csv(path: Path) -> Table:
    """Comma separated with a header; fields may be quoted and hold line breaks (RFC 4180)."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    last = 0
    try:
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(last + 1)
            last = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"broken csv: {error}", where=f"{path}:{last + 1}", hint='write a quote inside a quoted field twice: ""'
        ) from error
    return tabulate(path, rows, numbers)


def read_tsv(path: Path, header: Sequence[str] | None = None, *, skip_broken: bool = False) -> Table:
    """Tab separated without any quoting, as GLUE's files and the text/tab-separated-values type are.

    header: the columns of a file that has no header line; skip_broken: leave out lines with too few or too many fields.
    """
    # Only \n ends a line: texts may hold other characters that str.splitlines would break at.
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    kept = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line]
    rows = [fields for _, fields in kept]
    numbers = [number for number, _ in kept]
    if header is not None:
        rows, numbers = [list(header), *rows], [0, *numbers]
    hint = "a tsv has no quoting: save as csv where a field holds tabs or line breaks"
    return tabulate(path, rows, numbers, skip_broken=skip_broken, hint=hint)


def tabulate(
    path: Path, rows: list[list[str]], numbers: list[int], *, skip_broken: bool = False, hint: str = ""
) -> Table:
    """A Table from a header row and the rows below it, all of the header's width."""
    if not rows:
        raise DataError("the file is empty", where=str(path))
    header, width = rows[0], len(rows[0])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"the header names a column twice: {', '.join(twice)}", where=f"{path}:{numbers[0]}")
    broken = [number for number, row in zip(numbers, rows, strict=True) if len(row) != width]
    if broken and not skip_broken:
        found = len(rows[numbers.index(broken[0])])
        raise row_error(str(path), broken, f"{found} fields where the header has {width}", hint=hint)
    if broken:
        kept = [(number, row) for number, row in zip(numbers, rows, strict=True) if len(row) == width]
        numbers, rows = [number for number, _ in kept], [row for _, row in kept]
    columns = {name: [row[at] for row in rows[1:]] for at, name in enumerate(header)}
    return Table(str(path), columns, numbers[1:], skipped=broken)


def read_jsonl(path: Path) -> Table:
    """One JSON object a line; a key that a line lacks is a missing value."""
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"broken JSON: {error.msg}", where=f"{path}:{number}") from error
        if not isinstance(row, dict):
            raise DataError(
                "not a JSON object", where=f"{path}:{number}", valid='one object a line: {"text": ..., "label": ...}'
            )
        rows.append(row)
        numbers.append(number)
    if not rows:
        raise DataError("the file is empty", where=str(path))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(str(path), {name: [row.get(name) for row in rows] for name in names}, numbers)


def read_parquet(*paths: Path) -> Table:
    """One parquet file, or the shards of one split in order."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        table = arrow.concat_tables([parquet.read_table(path) for path in paths])
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable parquet file: {error}", where=str(paths[0])) from error
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Table(str(paths[0]), columns, range(1, table.num_rows + 1), unit="row")


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def read_text(path: Path) -> str:
    """The file's text without a byte order mark. Raises DataError where it is not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        hint = "save it as UTF-8, e.g. iconv -f latin1 -t utf-8"
        raise DataError(f"not UTF-8 text (byte 0x{raw[error.start]:02x})", where=f"{path}:{line}", hint=hint) from error
