"""The files that a recipe key names: one, those that a pattern fits, or all shards in a folder. And what reads each kind."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TypeVar

from lorakit.errors import DataError
from lorakit.tasks.cache import sha256_of
from lorakit.tasks.json_rows import read_json, read_jsonl
from lorakit.tasks.parquet import read_parquet
from lorakit.tasks.readers import read_csv, read_tsv, read_txt
from lorakit.tasks.rows import Columns
from lorakit.tasks.table import SHOWN, Table, clipped, no_column, whole_path
from lorakit.tasks.unpacking import PACKINGS, kind_of, packing_of

T = TypeVar("T")
TXT = ".txt"  # has no labels
READERS: dict[str, Callable[[Path, Columns], Iterator[Table]]] = {
    ".csv": lambda path, columns: read_csv(path, columns.names),
    ".tsv": lambda path, columns: read_tsv(path, wanted=columns.names),
    ".json": lambda path, columns: read_json(path, columns.names),
    ".jsonl": lambda path, columns: read_jsonl(path, columns.names),
    ".ndjson": lambda path, columns: read_jsonl(path, columns.names),
    ".parquet": lambda path, columns: read_parquet(path, wanted=columns.names),
    TXT: lambda path, columns: read_txt(path, columns.text),
}
WHERE = "a file, a folder of shards, a pattern such as data/train-*.csv, a data set saved to disk, or hub:OWNER/NAME"
LABELLED = [kind for kind in READERS if kind != TXT]
SPLIT_WORD = re.compile(r"(?:^|[-_.])(train|validation|valid|val|dev|test)(?=[-_.])", re.IGNORECASE)


@dataclass(frozen=True)
class DataFiles:
    """Files of one kind that are one split, in order. name: what they are called together in messages."""

    name: str
    paths: tuple[Path, ...]
    kind: str

    @property
    def parts(self) -> tuple[str, ...]:
        """What messages call each file."""
        return tuple(map(str, self.paths))

    @property
    def size(self) -> int:
        """Bytes of all files. Raises DataError where one is gone."""
        return sum(self.ask(os.path.getsize, path) for path in self.paths)

    @property
    def packed(self) -> bool:
        """Whether they may hold far more than their size."""
        return any(packing_of(path) for path in self.paths)

    def digest(self) -> str:
        """The sha256 of all that decides what is read: kind and content of each file."""
        contents = [(self.kind, packing_of(path), self.ask(sha256_of, path)) for path in self.paths]
        return hashlib.sha256(repr(contents).encode()).hexdigest()

    def tables(self, columns: Columns) -> Iterator[Table]:
        """The tables of all files. Raises DataError about a later file without a column that the first one has."""
        needed: set[str] = set()
        for place, path in enumerate(self.paths):
            names: dict[str, None] = {}
            for table in READERS[self.kind](path, columns):
                names |= dict.fromkeys(table.names)
                yield table
            needed = needed if place else names.keys() & columns.names
            for name in columns.names:
                if name in needed and name not in names:
                    raise no_column(str(path), name, names)

    def ask(self, how: Callable[[Path], T], path: Path) -> T:
        """What the file system says of a file."""
        try:
            return how(path)
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def find_files(named: str, key: str, *, labelled: bool = True) -> DataFiles:
    """The files that ``named`` means: a file, a pattern such as shards/train-*.csv, or a folder.

    labelled: they are to hold labels too. Raises DataError where there is none, or where files are not of one kind.
    """
    path = Path(os.path.expanduser(named))
    if os.path.isdir(path):
        paths = shards(path, key)
    elif os.path.isfile(path):  # which takes any name, where pathlib raises
        paths = [path]
    else:
        paths = [Path(found) for found in sorted(glob(str(path))) if os.path.isfile(found)] if has_magic(named) else []
    if not paths:
        hint = "" if path.is_absolute() else f"the full path, or one from {Path.cwd()}"
        raise DataError(f"there is no file {whole_path(named)}", key=key, valid=WHERE, hint=hint)
    kinds = {(kind_of(found), packing_of(found)): found.name for found in reversed(paths)}
    valid = ", ".join(READERS if not labelled else LABELLED)
    for (kind, _), name in kinds.items():
        if labelled and kind == TXT:
            hint = "save text and label as two columns of a csv"
            raise DataError(f"a text file has no labels: {clipped(name)}", key=key, valid=valid, hint=hint)
        if kind not in READERS:
            packings = " ".join(packing for packing in PACKINGS if packing)
            what = f"lorakit cannot tell what kind of file {whole_path(named if len(paths) == 1 else name)} is"
            raise DataError(
                what, key=key, valid=f"{valid}; each also packed as {packings}", hint=unknown_hint(path, paths)
            )
    if len(kinds) > 1:
        what = f"{whole_path(named)} holds files of more than one kind: {listed(sorted(kinds.values()))}"
        raise DataError(what, key=key, valid="files of one kind", hint=pattern_hint(path))
    refuse_many_splits(path, paths, key)
    return DataFiles(str(path), tuple(paths), next(iter(kinds))[0])


def shards(folder: Path, key: str) -> list[Path]:
    """All files in a folder, by name; hidden ones, and those that begin with _ as Spark's _SUCCESS does, are left aside."""
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", where=str(folder), key=key) from error
    valid = "a folder of files, all of one kind and one split"
    if not found:
        what = f"the folder {whole_path(folder)} holds no files; those that begin with . or _ do not count"
        raise DataError(what, key=key, valid=valid)
    if others := [path.name for path in found if not path.is_file()]:
        what = f"the folder {whole_path(folder)} holds folders, or what is no file: {listed(others)}"
        raise DataError(what, key=key, valid=valid, hint=pattern_hint(folder))
    return found


def refuse_many_splits(named: Path, paths: Sequence[Path], key: str) -> None:
    """Raise DataError where the names say that the files are of several splits: training on test rows is no mistake to make silently."""
    splits = {match[1].lower(): path.name for path in reversed(paths) if (match := SPLIT_WORD.search(path.name))}
    if len(splits) > 1:
        what = f"{whole_path(named)} holds files of several splits: {listed(sorted(splits.values()))}"
        raise DataError(what, key=key, valid="files of one split", hint=pattern_hint(named, "*train*"))


def unknown_hint(named: Path, paths: Sequence[Path]) -> str:
    """What to try where one of the files is of no kind."""
    if len(paths) > 1:
        return pattern_hint(named)
    packing = packing_of(paths[0])
    if packing:
        return f"a name that says what is packed, such as {paths[0].stem}.csv{packing}"
    return "save the sheet as csv" if paths[0].suffix.lower() in (".xlsx", ".xls", ".ods") else ""


def pattern_hint(named: Path, pattern: str = "*.csv") -> str:
    """A pattern for some of a folder's files."""
    return f"name the files that are meant with a pattern: {whole_path(named if named.is_dir() else named.parent)}/{pattern}"


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(clipped(name) for name in names[:SHOWN]) + more
