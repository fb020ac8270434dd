"""Files to tables: csv, tsv, jsonl and parquet, read in chunks of rows.

A reader yields the tables of one file in order; where the columns are known before any row is read, the first has no rows.
``wanted`` are the columns to take, all where it is None. Whatever is wrong with a file is a DataError.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lorakit.errors import DataError
from lorakit.tasks.parquet import read_parquet
from lorakit.tasks.table import CHUNK, Table, clipped, refuse_twice, row_error

LONE_RETURN = re.compile(r"(?<=\r)(?!\n)")
csv.field_size_limit(2**31 - 1)  # the default refuses texts above 128 KiB


def read_csv(path: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """Comma separated with a header; fields may be quoted and hold line breaks (RFC 4180)."""
    return tabulate(path, csv_rows(path), wanted)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line on which a row begins, and its fields."""
    # A carriage return alone ends a line too, as Macintosh files had it.
    lines = chain.from_iterable(
        LONE_RETURN.split(line) if line.count("\r") > line.endswith("\r\n") else (line,) for _, line in read_lines(path)
    )
    reader = csv.reader((line for line in lines if line), strict=True)
    last = 0
    try:
        for row in reader:
            if row:
                yield last + 1, row
            last = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"broken csv: {error}", where=f"{path}:{last + 1}", hint='write a quote inside a quoted field twice: ""'
        ) from error


def read_tsv(
    path: Path,
    header: Sequence[str] | None = None,
    *,
    wanted: Collection[str] | None = None,
    skip_broken: bool = False,
) -> Iterator[Table]:
    """Tab separated without any quoting, as GLUE's files and the text/tab-separated-values type are.

    header: the columns of a file that has no header line; skip_broken: leave out lines with too few or too many fields.
    """
    bare = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in read_lines(path))
    rows: Iterator[tuple[int, list[str]]] = ((number, line.split("\t")) for number, line in bare if line)
    if header is not None:
        rows = chain([(0, list(header))], rows)
    hint = "a tsv has no quoting: save as csv where a field holds tabs or line breaks"
    return tabulate(path, rows, wanted, skip_broken=skip_broken, hint=hint)


def tabulate(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    wanted: Collection[str] | None,
    *,
    skip_broken: bool = False,
    hint: str = "",
) -> Iterator[Table]:
    """Tables from (number, header) and the rows below it, all of the header's width."""
    line, header = next(rows, (0, []))
    if not header:
        raise DataError("the file is empty", where=str(path))
    refuse_twice(header, f"{path}:{line}")
    places = {name: at for at, name in enumerate(header) if wanted is None or name in wanted}
    yield Table(str(path), {name: [] for name in places}, [], names=header)
    broken: list[int] = []
    width = found = len(header)
    while chunk := list(islice(rows, CHUNK)):
        odd = [(number, row) for number, row in chunk if len(row) != width]
        if odd:
            found = found if broken else len(odd[0][1])
            broken += [number for number, _ in odd]
            chunk = [(number, row) for number, row in chunk if len(row) == width]
        columns = {name: [row[at] for _, row in chunk] for name, at in places.items()}
        skipped = [number for number, _ in odd]
        yield Table(str(path), columns, [number for number, _ in chunk], skipped=skipped, names=header)
    if broken and not skip_broken:
        raise row_error(str(path), broken, f"{found} fields where the header has {width}", hint=hint)


def read_jsonl(path: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """One JSON object a line; a key that a line lacks is a missing value."""
    rows = ((number, json_object(line, f"{path}:{number}")) for number, line in read_lines(path) if line.strip())
    names: dict[str, None] = {}
    found = False
    while chunk := list(islice(rows, CHUNK)):
        names |= dict.fromkeys(name for _, row in chunk for name in row)
        columns = {name: [row.get(name) for _, row in chunk] for name in names if wanted is None or name in wanted}
        yield Table(str(path), columns, [number for number, _ in chunk], names=list(names))
        found = True
    if not found:
        raise DataError("the file is empty", where=str(path))


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object that a line holds. Raises DataError where it is none, or not one that a file of text could hold."""
    try:
        row = json.loads(line, object_pairs_hook=unique)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("half of a surrogate pair, which is no character", where=where) from error
    except ValueError as error:
        raise DataError(f"broken JSON: {getattr(error, 'msg', error)}", where=where) from error
    except RecursionError as error:
        raise DataError("broken JSON: it is nested too deeply", where=where) from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, valid='one object a line: {"text": ..., "label": ...}')
    return row


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's keys and values. Raises ValueError about a key that is there twice: which one is meant?"""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(
            "a key is there twice: " + clipped(next(n for n, m in Counter(name for name, _ in pairs).items() if m > 1))
        )
    return row


READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Table]]] = {
    ".csv": read_csv,
    ".tsv": lambda path, wanted: read_tsv(path, wanted=wanted),
    ".jsonl": read_jsonl,
    ".parquet": lambda path, wanted: read_parquet(path, wanted=wanted),
}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line with its line feed, without a byte order mark. Raises DataError where it is not UTF-8."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                yield number, decode(line, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def decode(raw: bytes, where: str) -> str:
    """A line of UTF-8 text; a NUL, which UTF-16 is full of, is none."""
    coding, wrong, reason = "utf-16", raw.find(b"\0"), None
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        coding, wrong, reason = ("latin1", error.start, error) if wrong < 0 else (coding, wrong, error)
    if wrong >= 0:
        hint = f"save it as UTF-8, e.g. iconv -f {coding} -t utf-8"
        raise DataError(f"not UTF-8 text (byte 0x{raw[wrong]:02x})", where=where, hint=hint) from reason
    return line
