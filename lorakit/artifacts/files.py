"""Writing that is either done or not: a file or a folder appears whole under its name, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.strict_json import parsed
from lorakit.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step; of several processes that do so at once the last one wins."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        with partial.open("xb") as stream:  # never through a link that a folder from elsewhere has there
            stream.write(content)
        rename(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON. Raises ValueError for NaN, which JSON does not know."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``; RunError where it is missing or broken."""
    try:
        if not path.is_file():
            raise FileNotFoundError
        return parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.name} is missing", where=str(path.parent)) from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read as JSON: {error}", where=str(path)) from None


def append_json(path: Path, record: Any) -> None:
    """One more line of a .jsonl file, which is not a link to another file."""
    with writing(path):
        if path.is_symlink():
            raise OSError(errno.ELOOP, "is a link")
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Replace ``path`` by these records, a line each."""
    write_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def read_jsonl(path: Path) -> list[Any]:
    """All records of a .jsonl file; none where the file is not there. A last line cut short by a kill is left out."""
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read: {error}", where=str(path)) from None
    records = []
    for line in lines:
        try:
            records.append(parsed(line))
        except ValueError:
            break
    return records


@FaultPoint("naming")
def rename(source: Path, target: Path) -> None:
    """``source`` takes the place of ``target`` in one step."""
    os.replace(source, target)


@FaultPoint("removing")
def remove_folder(path: Path) -> None:
    """Delete a folder with all that is in it, where it is there and the system lets us."""
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` when the block ends well and vanishes when it does not."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        remove_folder(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
        except BaseException:
            remove_folder(partial)
            raise
        old = path.with_name(f".{path.name}.old")
        remove_folder(old)
        if path.exists():
            rename(path, old)
        rename(partial, path)
        remove_folder(old)


def mend(root: Path) -> None:
    """Put right what a kill left in ``root``: a folder that was just changing places comes back, what is half written goes."""
    for old in root.rglob(".*.old"):
        path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if path.exists():
            remove_folder(old)
        else:
            rename(old, path)
    for partial in root.rglob(".*.partial"):
        if partial.is_dir():
            remove_folder(partial)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the operating system says against a write becomes a RunError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot be written: {error.strerror or error}", where=str(path), hint="free space and permissions"
        ) from None
