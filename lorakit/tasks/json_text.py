"""JSON as text that is read a value at a time: no more than one row, and a block of what follows, is in memory.

Nothing in the standard library reads an array of more rows than memory has room for.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lorakit.errors import DataError
from lorakit.tasks.lines import LONGEST, no_text, too_long
from lorakit.tasks.table import clipped
from lorakit.tasks.unpacking import BLOCK

SPACE = re.compile(r"[ \t\n\r]*")
AFTER_NUMBER = (" ", "\t", "\n", "\r", ",", "]", "}")
LONGEST_WORD = (
    16  # letters; -Infinity and an escape are shorter. What is wrong further from the end is not merely cut off there
)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's keys and values. Raises ValueError about a key that is there twice: which one is meant?"""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(
            "a key is there twice: " + clipped(next(n for n, m in Counter(name for name, _ in pairs).items() if m > 1))
        )
    return row


DECODER = json.JSONDecoder(object_pairs_hook=unique)


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object that a line holds. Raises DataError where it is none, or not one that a file of text could hold."""
    try:
        row = DECODER.decode(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise broken_json(error, where) from error
    return check_object(row, where)


def check_object(row: Any, where: str) -> dict[str, Any]:
    """``row``, which is an object. Raises DataError where it is none."""
    if not isinstance(row, dict):
        raise DataError("not a JSON object", where=where, valid='objects as rows: {"text": ..., "label": ...}')
    return row


def broken_json(error: ValueError | RecursionError, where: str) -> DataError:
    """What the decoder raises, as a DataError."""
    if isinstance(error, UnicodeEncodeError):
        return DataError("half of a surrogate pair, which is no character", where=where)
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
    return DataError(f"broken JSON: {reason}", where=where)


class JsonText:
    """A position in a JSON file, that goes forward. line: where it is, counted from 1."""

    def __init__(self, path: str, file: io.BufferedReader):
        self.path, self.file = path, file
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.line = "", 0, 1
        self.ended = False

    def where(self, at: int | None = None) -> str:
        """File and line of a place in ``text``, by default of the position."""
        return f"{self.path}:{self.line + self.text.count(chr(10), self.at, self.at if at is None else at)}"

    def peek(self) -> str:
        """The next character that is not blank; an empty text at the end."""
        while True:
            self.move(SPACE.match(self.text, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.grow()

    def take(self, mark: str) -> None:
        """Go over ``mark``. Raises DataError where something else is next."""
        if self.peek() != mark:
            raise DataError(f"broken JSON: Expecting '{mark}'", where=self.where())
        self.move(self.at + 1)

    def value(self) -> Any:
        """Go over one value, and return it. Raises DataError where it is broken."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if "\\u" in self.text[self.at : end]:
                    json.dumps(value, ensure_ascii=False).encode()
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.text) - LONGEST_WORD
                if self.ended or not cut:
                    raise broken_json(error, self.where(error.pos)) from error
            except (ValueError, RecursionError) as error:
                raise broken_json(error, self.where()) from error
            else:
                closed = self.text[end - 1] in '"]}' or self.text[end : end + 1] in AFTER_NUMBER
                if closed or self.ended:  # 1 may be the beginning of 1.5
                    self.move(end)
                    return value
            self.grow()

    def elements(self) -> Iterator[tuple[int, Any]]:
        """Go over an array: line and value of each element."""
        self.take("[")
        while self.peek() != "]":
            yield self.line, self.value()
            if self.peek() != ",":
                break
            self.take(",")
            if self.peek() == "]":
                raise DataError("broken JSON: a comma before the end of an array", where=self.where())
        self.take("]")

    def move(self, at: int) -> None:
        """Go to a place in ``text``."""
        self.line += self.text.count("\n", self.at, at)
        self.at = at

    def grow(self) -> None:
        """Read on: as much as is there already, so that a long value is tried few times."""
        kept = self.text[self.at :]
        if len(kept) >= LONGEST:
            raise too_long("a value", self.where())
        try:
            block = self.file.read(max(BLOCK, len(kept)))
            more = self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise self.not_text(error) from error
        self.text, self.at, self.ended = kept + more, 0, not block

    def not_text(self, error: UnicodeDecodeError) -> DataError:
        """A DataError about bytes that are no text, with what stands around them."""
        raw: bytes = error.object
        line = self.line + self.text.count("\n", self.at) + raw.count(b"\n", 0, error.start)
        start, end = raw.rfind(b"\n", 0, error.start) + 1, raw.find(b"\n", error.start)
        around = raw[start : end if end >= 0 else len(raw)]
        inside = UnicodeDecodeError(error.encoding, around, error.start - start, len(around), error.reason)
        return no_text(inside, f"{self.path}:{line}")
