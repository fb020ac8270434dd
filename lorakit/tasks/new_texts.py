"""Texts to label: the rows of a file of any kind with all of its columns, or lines, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lorakit.errors import DataError, nearest
from lorakit.tasks.columns import inner_hint, values_of
from lorakit.tasks.data_files import TXT, DataFiles
from lorakit.tasks.readers import bare_lines
from lorakit.tasks.rows import Columns
from lorakit.tasks.table import SHOWN_COLUMNS, Table, clipped, row_error, short

Text = str | tuple[str, str]
NAMES = ("text", "text_pair")
"""What the columns of lines are called, and those of a file where nobody says what they are called."""


class NewRow(NamedTuple):
    """A row to label: its text, "" where it has none; its number in the file; and the values of the columns kept."""

    text: Text
    number: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class NewTexts:
    """The rows of one source. names: the columns kept, in order; unit: what a row's number counts, line or row."""

    name: str
    names: tuple[str, ...]
    unit: str
    rows: Iterator[NewRow]


def is_blank(text: Text) -> bool:
    """Whether there is nothing but blanks in a text, or in both of a pair."""
    return not any(part.strip() for part in ((text,) if isinstance(text, str) else text))


def has_half_pair(text: str) -> bool:
    """Whether half of a surrogate pair is in a text, which is no character and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def open_texts(files: DataFiles, named: Sequence[str | None], known: Sequence[str], *, pair: bool) -> NewTexts:
    """The rows of ``files``, whose columns of texts are the ``named`` ones, else those ``known`` from the training.

    Text files hold a text a line. Raises DataError about a column that is not there, and while rows are read, about what is no text.
    """
    if files.kind == TXT:
        refuse_names(named, files.name)
        lines = chain.from_iterable(file_lines(path, pair=pair) for path in files.paths)
        return NewTexts(files.name, NAMES[: 1 + pair], "line", lines)
    if named[1] and not pair:
        raise DataError(f"column '{named[1]}' is a second text, and the task is one text", hint="leave --text-pair out")
    wanted = [name or usual for name, usual in zip(named, known or NAMES, strict=False)][: 1 + pair]
    if len({*wanted}) < len(wanted):
        what = f"column '{wanted[0]}' would be both texts of a pair"
        raise DataError(what, where=files.name, valid="two columns", hint="both --text and --text-pair")
    first = next(files.tables(Columns((*wanted,), "", label_optional=True)))
    missing = [name for name in wanted if name not in first.names]
    if missing:
        raise no_text_column(files.name, missing[0], first.names, known=bool(known), option=wanted.index(missing[0]))
    names = tuple(name for name in first.names if name.partition(".")[0] not in first.names or "." not in name)
    tables = files.tables(Columns((*wanted,), "", label_optional=True, others=names))
    return NewTexts(files.name, names, first.unit, table_rows(tables, wanted, names))


def refuse_names(named: Sequence[str | None], name: str) -> None:
    """Raise DataError about columns of what holds a text a line."""
    if any(named):
        raise DataError("lines have no columns to choose", where=name, hint="leave --text and --text-pair out")


def no_text_column(path: str, name: str, names: Iterable[str], *, known: bool, option: int) -> DataError:
    """A DataError about a file without the column of texts."""
    few = list(names)
    what = f"there is no column '{name}'" + (", which is what the training data calls the texts" if known else "")
    valid = ", ".join(map(clipped, few[:SHOWN_COLUMNS]))
    hint = nearest(name, few) or f"{('--text', '--text-pair')[option]} with the name of the column that holds them"
    return DataError(what, where=path, valid=valid, hint=hint)


def table_rows(tables: Iterable[Table], wanted: Sequence[str], names: Sequence[str]) -> Iterator[NewRow]:
    """The rows of tables."""
    for table in tables:
        columns = [values_of(table, name) for name in wanted]
        texts = [texts_of(table, name, column) for name, column in zip(wanted, columns, strict=True)]
        kept = [values_of(table, name) for name in names]
        for place, number in enumerate(table.numbers):
            text = (texts[0][place], texts[1][place]) if len(texts) == 2 else texts[0][place]
            yield NewRow(text, number, tuple(column[place] for column in kept))


def texts_of(table: Table, name: str, values: Sequence[Any]) -> list[str]:
    """A column's values, "" for what is missing. Raises DataError about what is no text."""
    for value, number in zip(values, table.numbers, strict=True):
        if value is not None and not isinstance(value, str):
            what = f"column '{name}' holds a {type(value).__name__} where text is needed: {short(value)}"
            raise row_error(table.path, [number], what, unit=table.unit, hint=inner_hint(name, value))
    return [value or "" for value in values]


def file_lines(path: Path, *, pair: bool) -> Iterator[NewRow]:
    """The lines of a text file, packed or not."""
    return line_rows(bare_lines(path), str(path), pair=pair)


def stream_texts(lines: Iterable[str], name: str, *, pair: bool) -> NewTexts:
    """A text for each line of a stream, as it comes. Raises DataError while reading where that is not UTF-8."""

    def numbered() -> Iterator[tuple[int, str]]:
        try:
            for number, line in enumerate(lines, start=1):
                yield number, line.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError("this is not UTF-8 text", where=name, hint="convert it to UTF-8") from error

    return NewTexts(name, NAMES[: 1 + pair], "line", line_rows(numbered(), name, pair=pair))


def line_rows(lines: Iterable[tuple[int, str]], name: str, *, pair: bool) -> Iterator[NewRow]:
    """A row for each line; of a pair, the first tab stands between the two texts. Raises DataError about lines that do not fit."""
    want = "two texts with a tab between them" if pair else "one text without a tab"
    for number, line in lines:
        first, tab, second = line.partition("\t")
        if bool(tab) != pair and line.strip():
            raise row_error(name, [number], "the line does not fit the task", valid=f"{want} on every line")
        text: Text = (first, second) if pair else line
        yield NewRow(text, number, (first, second) if pair else (line,))
