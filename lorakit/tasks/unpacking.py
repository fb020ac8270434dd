"""A data file as a stream of bytes: unpacked where it is packed, as UTF-8 where it is UTF-16. No file is ever held whole."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

from lorakit.errors import DataError
from lorakit.tasks.table import SHOWN, clipped

BLOCK = 2**16  # bytes read at once
MARKS = {  # what a file of another coding begins with; the longer marks begin like the shorter ones
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def packing_of(path: PurePath) -> str:
    """What a file is packed with, by its name: .gz, .bz2, .xz, .zip or an empty text."""
    return path.suffix.lower() if path.suffix.lower() in PACKINGS else ""


def kind_of(path: Path) -> str:
    """What a file holds, by its name: .csv of a.csv, of a.CSV.gz and of a.zip with one csv in it. Raises DataError about a zip."""
    packing = packing_of(path)
    if packing == ".zip":
        with telling(path), open_archive(path) as archive:
            kind = PurePath(lone_member(archive, path).filename).suffix
        return kind.lower() or path.with_suffix("").suffix.lower()
    return (path.with_suffix("") if packing else path).suffix.lower()


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """The file's content, unpacked. Raises DataError where it cannot be read or is damaged."""
    with telling(path), PACKINGS[packing_of(path)](path) as raw, io.BufferedReader(raw, BLOCK) as file:
        yield file


@contextmanager
def open_text(path: Path) -> Iterator[io.BufferedReader]:
    """The same without a byte order mark, as UTF-8 where the mark says that it is UTF-16 or UTF-32; only then broken text is an error."""
    with open_bytes(path) as file:
        start = file.peek(4)
        mark = next((mark for mark in (*MARKS, codecs.BOM_UTF8) if start.startswith(mark)), b"")
        file.read(len(mark))
        yield io.BufferedReader(Transcoded(file, MARKS[mark]), BLOCK) if mark in MARKS else file


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into a DataError."""
    try:
        yield
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
        reason = clipped(str(error)) or type(error).__name__
        raise DataError(f"the file is damaged, or no {packing_of(path)} at all: {reason}", where=str(path)) from error


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip. Raises DataError where it is packed in a way that Python does not know."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except RuntimeError as error:
        raise DataError(f"the archive cannot be unpacked: {clipped(str(error))}", where=str(path)) from error


def open_zip(path: Path) -> IO[bytes]:
    """The one file in an archive."""
    with open_archive(path) as archive:
        return archive.open(lone_member(archive, path))


def lone_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """The one file in an archive, hidden ones and those of macOS left aside. Raises DataError where there are more, or none."""
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir()
        and not any(part.startswith((".", "__MACOSX")) for part in PurePath(member.filename).parts)
    ]
    if len(members) == 1:
        if members[0].flag_bits & 1:
            raise DataError("the archive needs a password", where=str(path), hint="unpack it")
        return members[0]
    names = ", ".join(clipped(member.filename) for member in members[:SHOWN])
    more = f" and {len(members) - SHOWN:,} more" if len(members) > SHOWN else ""
    what = f"the archive holds {len(members):,} files: {names}{more}" if members else "the archive holds no file"
    raise DataError(what, where=str(path), valid="one file in a zip", hint="unpack it, and name the file that is meant")


PACKINGS: dict[str, Callable[[Path], Any]] = {
    "": lambda path: path.open("rb", buffering=0),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": open_zip,
}


class Transcoded(io.RawIOBase):
    """The bytes of a file in another coding as UTF-8. Raises UnicodeDecodeError where it is broken, after all that is right."""

    def __init__(self, file: io.BufferedReader, coding: str):
        self.file, self.coding = file, coding
        self.decoder = codecs.getincrementaldecoder(coding)()
        self.ready = b""
        self.broken: UnicodeDecodeError | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from what is decoded, and say how far."""
        ended = False
        while not self.ready and not ended:
            if self.broken:
                raise self.broken
            block = self.file.read(BLOCK)
            ended = not block
            try:
                text = self.decoder.decode(block, final=ended)
            except UnicodeDecodeError as error:
                self.broken, ended = error, False
                text = error.object[: error.start].decode(self.coding)
            self.ready = text.encode()
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self.ready))
        view[:count], self.ready = self.ready[:count], self.ready[count:]
        return count
