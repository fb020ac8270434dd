"""What takes long to make is kept: parsed files and tokens, each in a folder named after all that it depends on.

The cache is ``$LORAKIT_CACHE_DIR``, else ``lorakit`` in the user's cache folder; an empty variable means none. It can be
deleted at any time. An entry is built beside its place and moved there when it is complete, so that no process ever sees
half of one; sizes and checksums tell a damaged one, which is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from lorakit.errors import DataError

logger = logging.getLogger(__name__)

VARIABLE = "LORAKIT_CACHE_DIR"
SEAL = "entry.json"  # the entry's key, and size and checksum of each of its files
PART = ".part"  # ends the name of an entry that is being built
STALE = 24 * 3600  # seconds after which such a folder is what a killed process left
BLOCK = 2**20


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path | None:
    """The cache folder, which need not exist yet; None for no cache, and for a user without a home."""
    named = os.environ.get(VARIABLE)
    if named is None:
        named = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lorakit")
    folder = os.path.expanduser(named)
    return Path(folder) if folder and not folder.startswith("~") else None


@contextmanager
def cached(key: str, build: Callable[[Path], None]) -> Iterator[Path]:
    """The folder of entry ``key``, filled by ``build(folder)`` where it is not there whole.

    Open or map its files within the ``with``: without a cache, with one that cannot be written, and with an empty key the
    folder is gone afterwards (what is mapped stays). Raises DataError where there is no room to build.
    """
    folder = cache_dir()
    place = folder / key if folder and key else None
    if place and whole(place):
        yield place
        return
    part = make_part(place)
    try:
        try:
            build(part)
            seal(part, key)
        except OSError as error:
            hint = f"free some space, or name another folder as ${VARIABLE}"
            raise DataError(f"no place for unpacked data: {error.strerror}", where=str(part), hint=hint) from error
        yield part
        if place and part.parent == place.parent and not whole(place):
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):  # another process was first, with the same content
                part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_part(place: Path | None) -> Path:
    """An empty folder beside ``place``; among the system's temporary files where that cannot be, which is told."""
    if place is not None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            sweep(place.parent)
            return Path(tempfile.mkdtemp(PART, place.name + ".", place.parent))
        except OSError as error:
            tell_useless(place.parent, error.strerror)
    return Path(tempfile.mkdtemp(PART, "lorakit."))


@cache
def tell_useless(folder: Path, reason: str) -> None:
    """Say once that nothing is cached."""
    logger.info("nothing is cached: %s cannot be written (%s); $%s names another folder", folder, reason, VARIABLE)


def sweep(folder: Path) -> None:
    """Remove what killed processes left."""
    for path in folder.glob(f"*{PART}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path)


def seal(folder: Path, key: str) -> None:
    """Write down what a whole entry holds."""
    files = {path.name: fingerprint(path) for path in sorted(folder.iterdir())}
    (folder / SEAL).write_text(json.dumps({"key": key, "files": files}), encoding="utf-8")


def whole(folder: Path) -> bool:
    """Whether the entry in ``folder`` is complete and undamaged."""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files = {path.name: fingerprint(path) for path in folder.iterdir() if path.name != SEAL}
        return bool(sealed == {"key": folder.name, "files": files})
    except (OSError, ValueError):
        return False


def fingerprint(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    checksum, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    return [size, checksum]
