"""What somebody's data is like: classes, duplicates, texts with two labels, overlap between splits, lengths, scripts."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.baselines import joined
from lorakit.tasks.label_order import told as told_names
from lorakit.tasks.table import clipped
from lorakit.tasks.task import Task, named_labels

if TYPE_CHECKING:
    from datasets import Dataset

FEW_ROWS = 10  # training rows of a class, below which it is called rare
LOPSIDED = 10  # times as many rows of one class as of another
CUT = 0.05  # share of the rows
LETTERS = 100_000  # looked at for their script
LEAST_SHARE = 0.01  # of the letters, for a script to be told
SHOWN = 3


@dataclass(frozen=True)
class Lengths:
    """Tokens of a split's rows, as they are cut.

    Attributes:
        median: of all rows.
        most: 95 of 100 rows have at most so many.
        longest: of the longest row.
        cut: rows that lose tokens.
        kept: tokens that a row keeps at most.
    """

    median: int
    most: int
    longest: int
    cut: int
    kept: int


@dataclass(frozen=True)
class SplitSurvey:
    """One split. Two texts are the same where they differ in capitals and blanks alone.

    Attributes:
        name: of the split.
        rows: how many.
        labelled: whether it has labels.
        classes: rows of each label (with it, where a row may have several), in the order of the labels; empty for a number to predict.
        duplicates: rows whose text an earlier row has too.
        conflicts: texts that have more than one label; of a multi-label task, more than one set of labels.
        examples: some of these, each with its labels.
        overlap: rows whose text the training rows have too; 0 for these themselves.
        lengths: of its rows, in tokens.
    """

    name: str
    rows: int
    labelled: bool
    classes: dict[str, int]
    duplicates: int
    conflicts: int
    examples: list[str]
    overlap: int
    lengths: Lengths


def survey_split(
    task: Task, name: str, split: Dataset, train: Dataset, lengths: NDArray[np.int64], cut: int, kept: int
) -> SplitSurvey:
    """What a split is like; lengths (n,): tokens of its rows as they are cut, of which ``cut`` lost some; kept: the most there can be."""
    keys = [key_of(text) for text in joined(split)]
    labelled = "label" in split.column_names
    labels = np.asarray(split["label"]) if labelled else None
    classes: dict[str, int] = {}
    if labels is not None and not task.regression:
        counts = labels.sum(axis=0) if task.multi_label else np.bincount(labels, minlength=task.num_labels)
        classes = dict(zip(task.labels, counts.tolist(), strict=True))
    examples = [] if labels is None else conflicting(task, split, keys, labels)
    trained = set() if name == "train" else {key_of(text) for text in joined(train)}
    return SplitSurvey(
        name=name,
        rows=len(split),
        labelled=labelled,
        classes=classes,
        duplicates=len(keys) - len(set(keys)),
        conflicts=len(examples),
        examples=examples[:SHOWN],
        overlap=sum(key in trained for key in keys),
        lengths=Lengths(int(np.median(lengths)), int(np.quantile(lengths, 0.95)), int(lengths.max()), cut, kept),
    )


def key_of(text: str) -> bytes:
    """What texts are compared by: their words, whatever the capitals and blanks."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def conflicting(task: Task, split: Dataset, keys: Sequence[bytes], labels: NDArray[np.generic]) -> list[str]:
    """Texts with more than one label, each with these; of a multi-label task, with more than one set of labels."""
    met: dict[bytes, dict[str, int]] = {}
    for row, (key, label) in enumerate(zip(keys, labels.tolist(), strict=True)):
        met.setdefault(key, {}).setdefault(label_words(task, label), row)
    several = [found for found in met.values() if len(found) > 1]
    texts = joined(split.select([min(found.values()) for found in several]))
    return [f"{clipped(text)}: {', '.join(sorted(found))}" for text, found in zip(texts, several, strict=True)]


def label_words(task: Task, label: Any) -> str:
    """A row's label for people: a class's name, the names of several labels, a number."""
    if task.multi_label:
        return " + ".join(named_labels(task, label)) or "no label"
    return task.labels[int(label)] if task.labels else f"{label:g}"


def scripts_of(texts: Sequence[str]) -> dict[str, float]:
    """The scripts that letters are of (latin, cyrillic, cjk), by their share of the first LETTERS letters; those below 1 % are left out."""
    found: Counter[str] = Counter()
    seen = 0
    for text in texts:
        for letter, times in Counter(filter(str.isalpha, text)).items():
            found[unicodedata.name(letter, "OTHER").split(" ")[0].split("-")[0].lower()] += times
            seen += times
        if seen >= LETTERS:
            break
    return {name: times / seen for name, times in found.most_common() if times / seen >= LEAST_SHARE}


def remarks(splits: Sequence[SplitSurvey], scripts: Mapping[str, float]) -> list[str]:
    """What a person should look at before training, a sentence each."""
    train, told = splits[0], []
    counts = Counter(train.classes)
    rare = [f"{label} ({count:,})" for label, count in train.classes.items() if count < FEW_ROWS]
    if rare:
        told.append(f"fewer than {FEW_ROWS} training rows: {', '.join(rare[:10])}")
    if counts and min(counts.values()) * LOPSIDED < max(counts.values()):
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        told.append(
            f"{many:,} training rows of {most} and {few:,} of {least}: look at macro_f1, and at training.class_weights=balanced"
        )
    for split in splits:
        if split.conflicts:
            told.append(
                f"{split.name}: texts with more than one label: {split.conflicts:,}, such as {split.examples[0]}"
            )
        if split.duplicates:
            told.append(
                f"{split.name}: {split.duplicates:,} of {split.rows:,} rows have a text that an earlier row has"
            )
        if split.overlap:
            told.append(
                f"{split.name}: {split.overlap:,} of {split.rows:,} texts are training texts too: scores are too high"
            )
        missing = [label for label, count in split.classes.items() if not count]
        if missing:
            told.append(f"{split.name} has no row of {told_names(missing)}")
        if split.lengths.cut > CUT * split.rows:
            told.append(
                f"{split.name}: {split.lengths.cut:,} of {split.rows:,} rows are cut to {split.lengths.kept} tokens"
            )
    if len(scripts) > 1:
        told.append(
            f"letters of several scripts: {', '.join(f'{name} {100 * share:.0f} %' for name, share in scripts.items())}"
        )
    return told
