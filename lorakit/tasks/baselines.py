"""What needs no fine-tuning: the most common class, words with logistic regression, fixed features with logistic regression.

A classifier that does not beat these has learnt nothing that is worth its cost. Every draw is from a stream of its own.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.linear_probe import fit_outputs
from lorakit.tasks.metrics import score
from lorakit.tasks.table import SHOWN
from lorakit.tasks.task import Task, higher_is_better, named_labels

if TYPE_CHECKING:
    from datasets import Dataset

MAJORITY, TFIDF, FROZEN = "majority", "tfidf", "frozen"
BASELINE_STREAM = 4  # keeps the draw of rows apart from the other draws
TFIDF_ROWS, FROZEN_ROWS = 20_000, 2_000  # training rows, at most
LEAST_ROWS = 1_000  # that are taken however many labels there are
WORDS = 50_000  # words and pairs of words, at most
ITERATIONS = 1_000


@dataclass(frozen=True)
class Baseline:
    """A simple classifier on the same rows.

    Attributes:
        name: ``majority``, ``tfidf`` or ``frozen``.
        title: what it is, for people.
        scores: the task's metrics on the first validation split; empty where it could not be made.
        note: which rows it was trained on, where not all, or why it could not be made.
    """

    name: str
    title: str
    scores: dict[str, float]
    note: str = ""


def majority(task: Task, train: NDArray[np.int64], validation: NDArray[np.int64]) -> Baseline:
    """Always the most common class of the training rows (the first of equals). Labels: (n,).

    Of several labels a row (n, labels): those that more than half of the training rows have.
    """
    if task.multi_label:
        often = (train.mean(axis=0) > 0.5).astype(np.int64)
        answer = ", ".join(named_labels(task, often)) or "no label"
        same = np.broadcast_to(often, validation.shape)
        return Baseline(MAJORITY, f"always {answer}", score(task, same, validation))
    most = int(np.bincount(train, minlength=task.num_labels).argmax())
    title = f"always {task.labels[most]}"
    return Baseline(MAJORITY, title, score(task, np.full_like(validation, most), validation))


def tfidf(task: Task, train: Dataset, validation: Dataset) -> Baseline:
    """Logistic regression on TF-IDF of words and pairs of words, over both texts of a pair; one for each of several labels a row."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    title = "TF-IDF, logistic regression"
    rows, note = some_rows(len(train), most_rows(task, TFIDF_ROWS))
    labels = np.asarray(train["label"])[rows]
    if problem := too_alike(labels):
        return Baseline(TFIDF, title, {}, problem)
    chosen = train.select(rows)
    # Single letters are words too: many languages write without spaces, and some words have one letter.
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=WORDS, token_pattern=r"(?u)\b\w+\b")
    model = make_pipeline(words, each_label(task, LogisticRegression(C=10.0, max_iter=ITERATIONS)))
    try:
        with warnings.catch_warnings():
            quiet_about_classes()
            model.fit(joined(chosen), labels)
    except ValueError as error:
        if "vocabulary" not in str(error):
            raise
        return Baseline(TFIDF, title, {}, "the texts hold no words")
    return Baseline(TFIDF, title, score(task, model.predict(joined(validation)), np.asarray(validation["label"])), note)


def frozen(
    task: Task,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    validation: NDArray[np.float32],
    references: NDArray[np.int64],
    note: str,
    strength: float | None = None,
) -> Baseline:
    """Logistic regression on features (n, width) that the model gives before any training (``fit_outputs``)."""
    title = "frozen features, logistic regression"
    if problem := too_alike(labels):
        return Baseline(FROZEN, title, {}, problem)
    return Baseline(FROZEN, title, score(task, answers(task, features, labels, validation, strength), references), note)


def answers(
    task: Task,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    asked: NDArray[np.float32],
    strength: float | None = None,
) -> NDArray[np.int64]:
    """What logistic regression, fitted to features (n, width) and labels, says of the features ``asked`` (m, width).

    Class ids (m,), or a 0 or 1 for each of several labels (m, labels).
    """
    with warnings.catch_warnings():
        quiet_about_classes()
        weight, bias = fit_outputs(features, labels, task, strength)
    logits = asked @ weight.T + bias
    decided: NDArray[np.int64] = (logits > 0).astype(np.int64) if task.multi_label else logits.argmax(axis=1)
    return decided


def quiet_about_classes() -> None:
    """Leave out what scikit-learn says of labels that all rows have, or few rows: the remarks on the data tell it."""
    for said in ("Label .* is present in all training examples", "The number of unique classes is greater than 50%"):
        warnings.filterwarnings("ignore", said)


def each_label(task: Task, model: Any) -> Any:
    """The classifier, or one of them for each of several labels a row."""
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(model) if task.multi_label else model


def most_rows(task: Task, most: int) -> int:
    """How many rows are taken: where each label has a classifier of its own, fewer the more labels there are."""
    return max(most * 10 // max(task.num_labels, 10), LEAST_ROWS) if task.multi_label else most


def some_rows(total: int, most: int) -> tuple[NDArray[np.int64], str]:
    """At most ``most`` of ``total`` rows, in order, the same ones in every run; and a word where that is not all."""
    if total <= most:
        return np.arange(total), ""
    drawn = np.random.default_rng(BASELINE_STREAM).permutation(total)[:most]
    return np.sort(drawn), f"trained on {most:,} of {total:,} rows"


def too_alike(labels: NDArray[Any]) -> str:
    """Why nothing can be fitted to these labels; empty where it can."""
    if labels.ndim == 2:
        return "the training rows have the same labels, all of them" if len(np.unique(labels, axis=0)) < 2 else ""
    return "the training rows have one class alone" if len(np.unique(labels)) < 2 else ""


def joined(split: Dataset) -> list[str]:
    """The text of each row, the two of a pair one after the other."""
    if "text_pair" not in split.column_names:
        return list(split["text"])
    return [f"{first} {second}" for first, second in zip(split["text"], split["text_pair"], strict=True)]


def collapse_warnings(
    task: Task, decisions: NDArray[np.int64], references: NDArray[np.int64], losses: Sequence[float]
) -> list[str]:
    """What says that a training came to nothing: one class or the same labels for every row, no more right than the most common
    class, labels that no row ever gets, a loss that did not fall.

    decisions, references: (n,) of the validation split, numbers for regression, (n, labels) for several labels a row; losses: the
    logged means, in order.
    """
    told = []
    if task.multi_label:
        told += label_warnings(task, decisions, references)
    elif not task.regression:
        if one_class(decisions):
            told.append(f"it answers '{task.labels[int(decisions[0])]}' for all {len(decisions):,} validation rows")
        right = float(np.mean(decisions == references))
        most, times = Counter(references.tolist()).most_common(1)[0]
        if right <= times / len(references):
            told.append(
                f"{right:.4f} of the validation rows are right, and always answering '{task.labels[most]}' "
                f"gets {times / len(references):.4f}"
            )
    if len(losses) > 1 and losses[-1] >= losses[0]:
        told.append(
            f"the loss never fell: {losses[0]:.4f} in the first line of metrics.jsonl, {losses[-1]:.4f} in the last"
        )
    return told


def label_warnings(task: Task, decisions: NDArray[np.int64], references: NDArray[np.int64]) -> list[str]:
    """The same labels for every row; else labels that rows have and none gets. Both (n, labels)."""
    if one_class(decisions):
        answer = ", ".join(f"'{name}'" for name in named_labels(task, decisions[0])) or "no label"
        return [f"it answers {answer} for all {len(decisions):,} validation rows"]
    never = np.flatnonzero((decisions.sum(axis=0) == 0) & (references.sum(axis=0) > 0))
    if not len(never):
        return []
    names = [task.labels[place] for place in never.tolist()]
    rows = int(references[:, never].any(axis=1).sum())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    which = ", ".join(f"'{name}'" for name in names[:SHOWN]) + more
    return [f"it never answers {which}, which {rows:,} of the {len(references):,} validation rows have"]


def one_class(decisions: NDArray[np.int64]) -> bool:
    """Whether all rows, where there is more than one, got one class, or the same labels."""
    return len(decisions) > 1 and len(np.unique(decisions, axis=0)) == 1


def below_words(metric: str, last: Mapping[str, float], baselines: Sequence[Baseline]) -> list[str]:
    """A sentence for each baseline that the last score does not reach."""
    word, sign = ("below", 1) if higher_is_better(metric) else ("above", -1)
    return [
        f"{metric} {last[metric]:.4f} is {word} {found.title}: {found.scores[metric]:.4f}"
        for found in baselines
        if found.scores and sign * last[metric] < sign * found.scores[metric]
    ]
