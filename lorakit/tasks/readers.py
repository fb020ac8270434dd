"""Text files to tables: csv, tsv and txt, read in chunks of rows.

A reader yields the tables of one file in order; where the columns are known before any row is read, the first has no rows.
``wanted`` are the columns to take, all where it is None. Whatever is wrong with a file is a DataError.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from lorakit.errors import DataError
from lorakit.tasks.lines import LONGEST, read_lines
from lorakit.tasks.separators import OTHERS, find_separator, first_lines
from lorakit.tasks.table import CHUNK, Table, refuse_twice, row_error

LONE_RETURN = re.compile(r"(?<=\r)(?!\n)")
csv.field_size_limit(LONGEST)  # the default refuses texts above 128 KiB


def read_csv(path: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """Comma separated with a header, or separated as the header shows; fields may be quoted and hold line breaks (RFC 4180)."""
    lines = csv_lines(path)
    sample = first_lines(lines)
    separator = find_separator(str(path), sample, wanted or ())
    notes = [f"the fields are separated by {OTHERS[separator]}"] if separator in OTHERS else []
    hint = (
        f'put quotes around a text that holds a "{separator}"'
        if separator != "\t"
        else "put quotes around a text with a tab"
    )
    yield from tabulate(path, csv_rows(path, chain(sample, lines), separator), wanted, notes=notes, hint=hint)


def csv_lines(path: Path) -> Iterator[str]:
    """The lines of a csv: a carriage return alone ends one too, as Macintosh files had it."""
    lines = chain.from_iterable(
        LONE_RETURN.split(line) if line.count("\r") > line.endswith("\r\n") else (line,) for _, line in read_lines(path)
    )
    return (line for line in lines if line)


def csv_rows(path: Path, lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line on which a row begins, and its fields."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
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
    rows: Iterator[tuple[int, list[str]]] = ((number, line.split("\t")) for number, line in bare_lines(path) if line)
    if header is not None:
        rows = chain([(0, list(header))], rows)
    hint = "a tsv has no quoting: save as csv where a field holds tabs or line breaks"
    return tabulate(path, rows, wanted, skip_broken=skip_broken, hint=hint)


def read_txt(path: Path, columns: Sequence[str]) -> Iterator[Table]:
    """A text a line, blank ones too; or where ``columns`` are two, two texts with a tab between them."""
    rows = ((number, line.split("\t") if len(columns) == 2 else [line]) for number, line in bare_lines(path))
    return tabulate(
        path, chain([(0, list(columns))], rows), None, hint="two texts with a tab between them on every line"
    )


def bare_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines without what ends them."""
    return ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in read_lines(path))


def tabulate(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    wanted: Collection[str] | None,
    *,
    skip_broken: bool = False,
    notes: Sequence[str] = (),
    hint: str = "",
) -> Iterator[Table]:
    """Tables from (number, header) and the rows below it, all of the header's width."""
    line, header = next(rows, (0, []))
    if not header:
        raise DataError("the file is empty", where=str(path))
    refuse_twice(header, f"{path}:{line}")
    places = {name: at for at, name in enumerate(header) if wanted is None or name in wanted}
    yield Table(str(path), {name: [] for name in places}, [], names=header, notes=notes)
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
