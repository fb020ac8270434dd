"""Data sets of the library ``datasets`` as the splits of a custom task: saved to disk, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.errors import DataError
from lorakit.tasks.arrow_columns import ArrowColumns, first_line
from lorakit.tasks.cache import sha256_of
from lorakit.tasks.hub import fetch
from lorakit.tasks.rows import Columns
from lorakit.tasks.table import CHUNK, Table, clipped, refuse_twice

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hub:"
HUB_NAME = re.compile(r"hub:(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<configuration>[^:@]+))?(@(?P<split>[^:@]+))?")
HUB_FORM = "hub:OWNER/NAME, hub:OWNER/NAME:CONFIG, and either with @SPLIT"
OTHER_NAMES = {"validation": ("validation", "valid", "val", "dev"), "train": ("train",), "test": ("test",)}
SAVED = (("dataset_dict.json",), ("dataset_info.json", "state.json"))  # what the library writes beside the rows


@dataclass(frozen=True)
class DataSetSplit:
    """One split of a data set. name: what messages call it."""

    name: str
    rows: Dataset
    packed: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """What messages call it."""
        return (self.name,)

    @property
    def files(self) -> list[Path]:
        """The files that the rows are mapped from; none where they are in memory."""
        return [Path(file["filename"]) for file in self.rows.cache_files]

    @property
    def size(self) -> int:
        """Bytes of these files."""
        return sum(map(os.path.getsize, self.files))

    def digest(self) -> str:
        """The sha256 of all that decides what is read: the files' content, and what the library makes of it."""
        contents = [str(self.rows.features), *map(sha256_of, self.files)]
        return hashlib.sha256(repr(contents).encode()).hexdigest()

    def tables(self, columns: Columns) -> Iterator[Table]:
        """The rows, a chunk at a time."""
        schema = self.rows.features.arrow_schema
        refuse_twice(schema.names, self.name)
        taken = ArrowColumns.of(self.name, schema, columns.names)
        yield taken.empty()
        heads = [name for name in schema.names if name in {kept.split(".")[0] for kept in taken.kept} | {*taken.kept}]
        first = 1
        for batch in self.rows.select_columns(heads or schema.names).with_format("arrow").iter(CHUNK):
            yield taken.read(batch, range(first, first + batch.num_rows), self.name)
            first += batch.num_rows


@dataclass(frozen=True)
class DataSet:
    """All splits of a data set. name: what messages call it; chosen: the one that the recipe names; hint: how to name one."""

    name: str
    splits: Mapping[str, Dataset]
    chosen: str
    hint: str

    def split(self, split: str, key: str) -> DataSetSplit:
        """The split that the recipe names, else the one for ``split``. Raises DataError where it is not there."""
        name = self.chosen or self.name_of(split)
        if name not in self.splits:
            what = f"{self.name} has no split '{clipped(name or split)}'"
            raise DataError(what, key=key, valid=", ".join(map(clipped, self.splits)), hint=self.hint)
        return DataSetSplit(f"{self.name} {name}", self.splits[name])

    def name_of(self, split: str) -> str:
        """What the data set calls train, validation or test; an empty text where it has none."""
        return next((name for name in OTHER_NAMES[split] if name in self.splits), "")


def find_data_set(named: str, key: str, *, offline: bool) -> DataSet | DataSetSplit | None:
    """The data set that a recipe key names; None where it names something else.

    Raises DataError where it is not there or not readable, and about one on the hub when offline.
    """
    if named.startswith(HUB):
        return from_hub(named, key, offline=offline)
    return from_disk(Path(os.path.expanduser(named)), key) if is_saved(named) else None


def is_saved(named: str) -> bool:
    """Whether a folder is what ``save_to_disk`` wrote."""
    folder = Path(os.path.expanduser(named))
    return any(all(os.path.isfile(folder / name) for name in names) for names in SAVED)


def from_hub(named: str, key: str, *, offline: bool) -> DataSet:
    """The data set ``hub:OWNER/NAME:CONFIG@SPLIT``, all its splits."""
    match = HUB_NAME.fullmatch(named)
    if match is None:
        raise DataError(f"{clipped(named)} is no name on the Hugging Face hub", key=key, valid=HUB_FORM)
    if os.path.isdir(match["name"]):
        what = f"the library datasets would read the folder {match['name']} that is here, and not the hub"
        raise DataError(what, key=key, valid=match["name"], hint="name the folder without hub:, or go elsewhere")
    names = [part for part in (match["name"], match["configuration"]) if part]
    valid = "a file, a folder of files of one kind, or a data set saved with save_to_disk"
    found = fetch(names, key=key, valid=valid, folder="FOLDER/FILES", offline=offline)
    hint = f"{key}={HUB}{':'.join(names)}@{next(iter(found), 'SPLIT')}"
    return DataSet(HUB + ":".join(names), found, match["split"] or "", hint)


def from_disk(folder: Path, key: str) -> DataSet | DataSetSplit:
    """What ``save_to_disk`` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # of Arrow, JSON and the file system, and of the library itself
        what = f"not a readable data set of the library datasets: {first_line(error)}"
        raise DataError(what, where=str(folder), key=key) from error
    if isinstance(found, datasets.Dataset):
        return DataSetSplit(str(folder), found)
    return DataSet(str(folder), found, "", f"{key}={folder}/{next(iter(found), 'SPLIT')}")
