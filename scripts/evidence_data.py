"""The tasks of the evidence: training rows drawn by seed from a pool, rows held out of that pool to choose rates on, and test rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 2_000
"""Training rows where a task's name says no number: ``subj`` has these, ``subj@500`` has 500."""
FEWEST_HELD, MOST_HELD = 400, 1_000
SENTENCE = 12
"""Words from which a phrase of SST-2 is taken for a whole sentence."""
TESTED_SENTENCES = 3_000
CLASSIC = ("subj", "mpqa", "cr", "trec")
NAMES = (*CLASSIC, "sst2", "mrpc", "rte")
PAIRS = ("mrpc", "rte")


@dataclass(frozen=True)
class Rows:
    """A task's rows: text (text, text_pair and label columns); train is a pool from which every seed draws its own."""

    train: pd.DataFrame
    test: pd.DataFrame

    def drawn(self, number: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """``number`` training rows of this seed, or as many as leave FEWEST_HELD of the pool; and held-out rows of the rest."""
        order = np.random.default_rng(seed).permutation(len(self.train))
        number = min(number, len(order) - FEWEST_HELD)
        return self.train.iloc[order[:number]], self.train.iloc[order[number:][:MOST_HELD]]


def parse(name: str) -> tuple[str, int]:
    """``subj@500`` as the task and its number of training rows."""
    task, _, number = name.partition("@")
    if task not in NAMES:
        raise SystemExit(f"'{task}' is no task of the evidence: {', '.join(NAMES)}")
    return task, int(number or ROWS)


@cache
def rows_of(task: str, text: Path) -> Rows:
    """The rows of a task; ``text`` has those of the classic sets, $LORAKIT_GLUE_DIR the others.

    Of MRPC and TREC every training row that is in no pool is a test row. Their own test parts are small, or not public.
    """
    if task in CLASSIC:
        train, test = (pd.read_parquet(text / task / f"{part}.parquet") for part in ("train", "test"))
        if task == "trec":
            train, test = apart(train, test, pool=2_500)
        return Rows(as_text(train), as_text(test))
    glue = Path(os.environ["LORAKIT_GLUE_DIR"]) / task
    train, test = (pd.read_parquet(glue / f"{part}.parquet") for part in ("train", "validation"))
    if task == "sst2":
        return by_sentence(train, test)
    train, test = apart(train, test, pool=2_400 if task == "mrpc" else 1_500)
    named = {"sentence1": "text", "sentence2": "text_pair"}
    return Rows(as_text(train.rename(columns=named)), as_text(test.rename(columns=named)))


def apart(train: pd.DataFrame, test: pd.DataFrame, pool: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A pool of training rows, and all others as test rows; no text is in both."""
    mixed = train.sample(frac=1, random_state=0)
    rest = pd.concat([test, mixed[pool:]])
    first = next(column for column in train.columns if train[column].dtype.kind in "OT" and column != "label")
    return mixed[:pool], rest[~rest[first].isin(set(mixed[:pool][first]))]


def by_sentence(train: pd.DataFrame, test: pd.DataFrame) -> Rows:
    """SST-2 apart by sentence: its training rows are phrases of sentences, and a phrase tells what its sentence is.

    Test rows are the validation sentences and TESTED_SENTENCES long training phrases; no training row of more than three words is a part
    of one of these, or has one as a part.
    """
    mixed = train.sample(frac=1, random_state=0)
    mixed = mixed.assign(text=mixed["sentence"].str.strip())
    words = mixed["text"].str.split().str.len()
    tested = mixed[words >= SENTENCE].drop_duplicates("text")[:TESTED_SENTENCES]
    tested = pd.concat([test.assign(text=test["sentence"].str.strip()), tested])
    joined, parts = "\n".join(tested["text"]), set()
    for text in tested["text"]:
        parts.update(grams(text))
    pool = mixed[: 4 * TESTED_SENTENCES]
    kept = [
        len(text.split()) <= 3 or (text not in joined and not parts.intersection(grams(text))) for text in pool["text"]
    ]
    return Rows(as_text(pool[kept]), as_text(tested))


def grams(text: str, length: int = 6) -> set[str]:
    """All runs of six words: two phrases that share one are of one sentence."""
    words = text.split()
    return {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}


def as_text(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that are needed, the label as text."""
    columns = [column for column in ("text", "text_pair", "label") if column in rows]
    return rows[columns].assign(label=rows["label"].astype(str)).reset_index(drop=True)
