"""JSON files to tables: one object a line, an array of objects, or an object with one such array in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lorakit.errors import DataError
from lorakit.tasks.json_text import JsonText, check_object, json_object
from lorakit.tasks.lines import LONGEST, read_lines
from lorakit.tasks.table import CHUNK, SHOWN, SHOWN_COLUMNS, Table, clipped
from lorakit.tasks.unpacking import BLOCK, open_text

DEPTH = 5  # of objects in objects, that a message lists the keys of
COLUMNS_HINT = 'save its rows: with pandas, to_json(FILE, orient="records", lines=True)'
Numbered = Iterator[tuple[int, dict[str, Any]]]
"""Objects, each with the line on which it begins."""


def read_jsonl(path: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """One JSON object a line, or an array of them; a key that an object lacks is a missing value."""
    if first_letter(path) == "[":
        return read_values(path, wanted)
    rows = ((number, json_object(line, f"{path}:{number}")) for number, line in read_lines(path) if line.strip())
    return tabulate_objects(path, rows, wanted)


def read_json(path: Path, wanted: Collection[str] | None = None) -> Iterator[Table]:
    """The same, or an object with one array of objects in it. Objects line by line are told by the first line, which is whole."""
    return (
        read_values(path, wanted) if first_letter(path) == "{" and not holds_lines(path) else read_jsonl(path, wanted)
    )


def first_letter(path: Path) -> str:
    """What the file begins with, blanks left aside; an empty text where that is far off, or not ASCII."""
    with open_text(path) as file:
        try:
            return file.read(BLOCK).lstrip()[:1].decode("ascii", "ignore")
        except UnicodeDecodeError:
            return ""


def holds_lines(path: Path) -> bool:
    """Whether the first line that is not blank is a whole object, and more follows."""
    with open_text(path) as file:
        try:
            first = next((line for line in iter(lambda: file.readline(LONGEST), b"") if line.strip()), b"")
            more = any(line.strip() for line in iter(lambda: file.readline(BLOCK), b""))
            return more and isinstance(json.loads(first), dict)
        except (ValueError, RecursionError):  # UnicodeDecodeError among them: whoever reads on tells it
            return False


def read_values(path: Path, wanted: Collection[str] | None) -> Iterator[Table]:
    """An array of objects, or an object with one in it."""
    notes: list[str] = []
    with open_text(path) as file:
        text = JsonText(str(path), file)
        yield from tabulate_objects(path, objects(text, wanted or (), notes), wanted, notes)


def objects(text: JsonText, wanted: Collection[str], notes: list[str]) -> Numbered:
    """The rows of a whole file. Raises DataError where something follows them."""
    elements = text.elements() if text.peek() == "[" else wrapped(text, wanted, notes)
    for line, row in elements:
        yield line, check_object(row, f"{text.path}:{line}")
    if text.peek():
        raise DataError("broken JSON: there is more after its end", where=text.where())


def wrapped(text: JsonText, wanted: Collection[str], notes: list[str]) -> Iterator[tuple[int, Any]]:
    """The rows of the one array of objects that an object holds; or the object, where that is a row itself.

    Raises DataError where it holds no rows, or two such arrays.
    """
    rows_of: str | None = None
    others: dict[str, Any] = {}
    start = text.line
    text.take("{")
    while text.peek() != "}":
        key = text.value()
        if not isinstance(key, str):
            raise DataError("broken JSON: a key that is no string", where=text.where())
        if key in others:
            raise DataError(f"broken JSON: a key is there twice: {clipped(key)}", where=text.where())
        text.take(":")
        if text.peek() != "[":
            others[key] = text.value()
        else:
            elements = text.elements()
            first = next(elements, None)
            if first is None or not isinstance(first[1], dict):
                others[key] = []
                for _ in elements:
                    pass
            elif rows_of is not None:
                what = f"the rows may be the list '{clipped(rows_of)}' or the list '{clipped(key)}'"
                raise DataError(
                    what, where=text.where(), valid="one list of objects", hint="save the one that is meant"
                )
            else:
                rows_of = key
                notes.append(f"the rows are its list '{clipped(rows_of)}'")
                yield first
                yield from elements
        if text.peek() != ",":
            break
        text.take(",")
    text.take("}")
    if rows_of is None:
        if not any(isinstance(look_up(others, name), str | int | float) for name in wanted):
            names = ", ".join(map(clipped, islice(others, SHOWN))) or "nothing"
            valid = "one object a line, an array of objects, or an object with one such array"
            what = f"the file is one object, with no list of rows in it; it has {names}"
            raise DataError(what, where=text.path, valid=valid, hint=COLUMNS_HINT)
        yield start, others


def tabulate_objects(
    path: Path, rows: Numbered, wanted: Collection[str] | None, notes: Sequence[str] = ()
) -> Iterator[Table]:
    """Tables of objects. ``wanted`` may name what is inside of an object, with dots: review.body."""
    dotted = [name for name in wanted or () if "." in name]
    names: dict[str, None] = {}
    found = False
    while chunk := list(islice(rows, CHUNK)):
        keys = dict.fromkeys(name for _, row in chunk for name in row)
        names |= keys
        columns = {name: [row.get(name) for _, row in chunk] for name in names if wanted is None or name in wanted}
        for name in dotted:
            columns[name] = [look_up(row, name) for _, row in chunk]
            if any(value is not None for value in columns[name]):
                names[name] = None
        inner = dict.fromkeys(islice(inner_names(chunk[0][1]), SHOWN_COLUMNS))
        yield Table(str(path), columns, [number for number, _ in chunk], names=[*(names | inner)], notes=notes)
        found = True
    if not found:
        raise DataError("the file is empty", where=str(path))


def look_up(row: dict[str, Any], name: str) -> Any:
    """The value of a key, or of keys inside of each other; None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def inner_names(row: dict[str, Any], before: str = "") -> Iterator[str]:
    """The dotted names of what is inside of a row's objects."""
    for name, value in row.items():
        if before:
            yield before + name
        if isinstance(value, dict) and before.count(".") < DEPTH:
            yield from inner_names(value, f"{before}{name}.")
