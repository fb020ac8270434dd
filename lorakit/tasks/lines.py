"""The lines of a text file, with their numbers; what is no text is told with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lorakit.errors import DataError
from lorakit.tasks.unpacking import open_text

LONGEST = 2**27  # bytes of a line, a field or a JSON value: no text to classify is longer, and memory is bounded
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # no text of any coding has these, but for half of UTF-16


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line with its line feed, without a byte order mark. Raises DataError where it is no text."""
    number = 0
    with open_text(path) as file:
        while True:
            number += 1
            try:
                raw = file.readline(LONGEST)
            except UnicodeDecodeError as error:
                raise no_text(error, f"{path}:{number}") from error
            if not raw:
                break
            if len(raw) == LONGEST and not raw.endswith(b"\n"):
                raise too_long("a line", f"{path}:{number}")
            yield number, decode(raw, f"{path}:{number}")


def decode(raw: bytes, where: str) -> str:
    """A line of UTF-8 text; a NUL, which UTF-16 is full of, is none."""
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        raise no_text(error, where) from error
    if "\0" in line:
        raise no_text(UnicodeDecodeError("utf-8", raw, raw.index(b"\0"), 0, "a NUL"), where)
    return line


def no_text(error: UnicodeDecodeError, where: str) -> DataError:
    """A DataError about a line that is not UTF-8, with what it may be. Which of the many old codings it is, no program can know."""
    name, raw, byte = error.encoding.upper().removesuffix("-LE").removesuffix("-BE"), error.object, error.start
    nul = raw.find(b"\0")
    hint = "save it as UTF-8"
    if name != "UTF-8":
        pass
    elif nul >= 0:
        byte = nul
        hint += f"; if it is UTF-16, iconv -f utf-16{'le' if nul % 2 else 'be'} -t utf-8 does"
    elif CONTROLS.search(raw):
        hint = "look whether it is a text file at all, and whether its name says what it is"
    else:
        seen = raw[byte : byte + 1].decode("cp1252", "replace")
        hint += f"; if that byte is to be '{seen}', iconv -f cp1252 -t utf-8 does"
    return DataError(f"not {name} text (byte 0x{raw[byte]:02x})", where=where, hint=hint)


def too_long(what: str, where: str) -> DataError:
    """A DataError about something that is no row."""
    return DataError(
        f"{what} is longer than {LONGEST >> 20} MiB", where=where, hint="look whether it is a data file at all"
    )
