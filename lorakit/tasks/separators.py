"""Which separator a csv has: the comma, or what its header and first rows say.

The standard library's ``csv.Sniffer`` guesses from the letters of all rows, and was wrong or undecided on 30 % of made-up files of
English sentences with labels, of which commas and semicolons are a part. A header is a better witness, and a better one still
where the columns that the recipe names are in it.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence

from lorakit.errors import DataError
from lorakit.tasks.table import clipped

OTHERS = {";": "semicolons", "|": "bars", "\t": "tabs"}
SAMPLE_LINES, SAMPLE_LETTERS = 100, 2**20  # of a file, to look at


def first_lines(lines: Iterator[str]) -> list[str]:
    """The lines to look at, taken off."""
    sample: list[str] = []
    letters = 0
    for line in lines:
        sample.append(line)
        letters += len(line)
        if len(sample) == SAMPLE_LINES or letters > SAMPLE_LETTERS:
            break
    return sample


def find_separator(path: str, sample: Sequence[str], wanted: Collection[str]) -> str:
    """The separator of a csv that begins with the lines of ``sample``; ``wanted`` are columns that it should have.

    It is the comma wherever the comma can be meant: a header with a wanted column between commas, or with nothing but commas in
    it. Else it is the separator that shows most of the wanted columns, or cuts the rows like the header. Raises DataError where
    that is more than one.
    """
    rows = {separator: list(complete_rows(sample, separator)) for separator in (",", *OTHERS)}
    headers = {separator: found[0] if found else [] for separator, found in rows.items()}
    known = {separator: len(set(header) & set(wanted)) for separator, header in headers.items()}
    fits = [separator for separator in OTHERS if len(headers[separator]) > 1]
    if known[","] or not fits or (len(headers[","]) > 1 and not any(known.values())):
        return ","
    fits = [separator for separator in fits if known[separator] == max(known[other] for other in fits)]
    if len(fits) > 1:
        fits = [mark for mark in fits if all(len(row) == len(headers[mark]) for row in rows[mark])] or fits
    if len(fits) > 1:
        names = " or ".join(OTHERS[separator] for separator in fits)
        what = f"the fields may be separated by {names}: {clipped(sample[0].strip())}"
        raise DataError(what, where=f"{path}:1", hint="save the file with commas")
    return fits[0]


def complete_rows(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """The rows that end within ``lines``, as far as they are right with this separator."""
    try:
        yield from (row for row in csv.reader(lines, delimiter=separator, strict=True) if row)
    except csv.Error:
        return
