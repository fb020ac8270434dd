"""A file of texts and labels as a recipe: ``lorakit train reviews.csv`` trains what is written here, and ``lorakit copy`` writes it down.

It extends the shipped recipe ``auto``; what it says itself is what depends on the data: columns, rows and their length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from lorakit.recipe.overlays import Overlay, read_document
from lorakit.recipe.problems import Problems
from lorakit.tasks.data_files import LABELLED, TXT, find_files
from lorakit.tasks.data_sets import HUB, DataSet, find_data_set, is_saved
from lorakit.tasks.guessing import Guess, guess_columns
from lorakit.tasks.task import name_of_files
from lorakit.tasks.unpacking import PACKINGS

COLUMNS = ("text", "text_pair", "label")
DEFAULT_MODEL = "bundled:minilm"
BASE = "auto"  # the shipped recipe that chooses all else
STEPS = 100  # optimiser steps that few rows are trained for; with a fitted head more made it worse (scripts/README.md)
MOST_EPOCHS, LEAST_EPOCHS, OF_MANY = 10, 3, 2
MANY = 10_000  # rows
BATCH = 16  # rows a step of that recipe
CHARACTERS = 3.5  # of a token, at least, in most texts
LENGTHS = (64, 128, 256, 512)


def is_data(named: str | Path) -> bool:
    """Whether a person means data: a data set of the hub, a file by its ending, a pattern, or a folder of such files."""
    name = str(named)
    if name.startswith(HUB):
        return True
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return has_data(path)
    return ending(path) in LABELLED or (ending(path) == TXT and os.path.isfile(path))


def ending(path: PurePath) -> str:
    """The ending that tells what a file holds, without that of its packing; a zip holds what its name says, csv where it says nothing."""
    packing = path.suffix.lower()
    inner = path.with_suffix("").suffix.lower() if packing in PACKINGS and packing else packing
    return inner or (".csv" if packing == ".zip" else "")


def has_data(folder: Path) -> bool:
    """Whether a folder is a data set that was saved, or holds shards."""
    if is_saved(str(folder)):
        return True
    return any(ending(path) in LABELLED for path in folder.iterdir() if path.is_file() and path.name[0] not in "._")


def read_own_data(named: str, given: Mapping[str, Any], problems: Problems) -> tuple[Overlay, list[str]]:
    """The recipe for the data ``named``, and what to tell of it."""
    text, told = write_own_data(named, given)
    return read_document(text, lambda _: f"made for {named}", problems), [f"{named}: {line}" for line in told]


def write_own_data(named: str, given: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The recipe as YAML text, and what to tell of it; columns that ``given`` (values by key path) does not name are guessed.

    Raises DataError about data that cannot be read, or columns that cannot be told.
    """
    found = find_data_set(named, "", offline=bool(given.get("run.offline")))
    source = found.split("train", "") if isinstance(found, DataSet) else found or find_files(named, "")
    columns = {name: given.get(f"task.{name}") for name in COLUMNS}
    guess = guess_columns(source, **columns, label_columns=given.get("task.label_columns") or ())
    if given.get("task.regression"):
        guess = replace(guess, regression=True)
    return "\n".join(document(named, guess)) + "\n", guess.told


def document(named: str, guess: Guess) -> list[str]:
    """The lines of the recipe: what the data tell."""
    pair = [f"  text_pair: {json.dumps(guess.text[1], ensure_ascii=False)}"] if len(guess.text) == 2 else []
    number = "regression: true # the labels are numbers to predict"
    several = "multi_label: true # a row may have any number of labels"
    metric = "metric: macro_f1 # every class counts the same"
    kind = number if guess.regression else several if guess.multi_label else metric
    return [
        f"# For {name_of_files(named)}, {guess.rows:,} rows: plain LoRA on every projection. To train it: lorakit train THIS_FILE",
        *(f"# {line}" for line in guess.told),
        f"extends: {BASE} # head, rate and what the head reads are found: lorakit show THIS_FILE",
        "model:",
        f"  name: {DEFAULT_MODEL}",
        "task:",
        "  name: custom",
        f"  train: {json.dumps(named, ensure_ascii=False)}",
        f"  text: {json.dumps(guess.text[0], ensure_ascii=False)}",
        *pair,
        *([f"  label: {json.dumps(guess.label, ensure_ascii=False)}"] if guess.label is not None else []),
        f"  {kind}",
        f"  max_length: {length(guess.characters)} # tokens; longer texts are cut",
        "training:",
        f"  epochs: {epochs(guess.rows)} # fewer rows are seen more often",
        "evaluation:",
        "  baselines: [majority, tfidf, frozen]",
        "run:",
        f"  name: {json.dumps(name_of_files(named), ensure_ascii=False)}",
    ]


def epochs(rows: int) -> int:
    """How often the rows are seen: about STEPS steps where they are few."""
    return OF_MANY if rows > MANY else max(LEAST_EPOCHS, min(MOST_EPOCHS, round(STEPS * BATCH / rows)))


def length(characters: int) -> int:
    """Tokens kept, for texts of so many characters."""
    return next((tokens for tokens in LENGTHS if tokens * CHARACTERS >= characters), LENGTHS[-1])
