"""``lorakit predict``: the rows of a file, labelled one after the other, in bounded memory."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any

from lorakit.errors import DataError, UsageError
from lorakit.result import Result
from lorakit.tasks.answer_files import answer_file, writer_of
from lorakit.tasks.data_files import find_files
from lorakit.tasks.new_texts import NewRow, NewTexts, open_texts, refuse_names, stream_texts
from lorakit.tasks.table import SHOWN
from lorakit.workflow.predict import Classifier, Prediction, load

logger = logging.getLogger(__name__)

STDIN = "-"
ANSWERS = ("label", "probability")
CSV = ".csv"  # has no lists


@dataclass
class FilePredictions(Result):
    """What became of a file's rows.

    Attributes:
        run: the run or merged folder.
        source: the file, or ``-``.
        out: the file of answers, None where there is none.
        rows: how many there were.
        labels: how often each label was the answer, or one of several; empty for regression.
        blank: rows without text, which have no label.
        abstained: rows whose probability was below ``abstain``, or without a label that reaches its threshold; they have none either.
        without: rows that got no label, where a row may have several.
    """

    run: str
    source: str
    out: Path | None
    rows: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    blank: int = 0
    abstained: int = 0
    without: int = 0


def predict_file(
    run: str | Path,
    source: str | Path,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    out: str | Path | None = None,
    batch_size: int = 32,
    abstain: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    weights: str | None = None,
    rank: int | None = None,
    on_answer: Callable[[Prediction], None] | None = None,
) -> FilePredictions:
    """Label every row of a file, in order.

    Args:
        run: a run's folder, or one that `lorakit merge` wrote.
        source: a csv, tsv, json, jsonl or parquet file, packed or not, a folder of shards or a pattern, with the columns that the
            run's data has; a txt file with a text a line; or ``-`` for the lines of standard input. Labels are not needed.
        text: the column of texts, where it has another name.
        text_pair: the column of second texts, where it has another name.
        out: a csv, jsonl or parquet file for the answers, by suffix: all columns of the source, and after them ``label``,
            ``probability`` and for each label ``p(label)``; where the source has such a column, ours is ``predicted_label``. Where a
            row may have several labels, ``label`` is all of them, a list in jsonl and parquet, and there is no ``probability``.
        batch_size: rows computed at once.
        abstain: no label for rows whose probability is below this.
        thresholds: label -> the least probability it is answered with, else it is the next best label that reaches its own, or none.
        weights: of a run, the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        rank: use the first so many rank units of each site alone.
        on_answer: called with each answer as it comes.

    Returns:
        How many rows there were, and what they were labelled. A row without text has an empty label, and no probability.

    Raises:
        UsageError: where there is no run, or the answers cannot be written.
        DataError: for files that cannot be read, lack the column, or have no rows.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> lorakit.predict_file("runs/demo-0", "new.csv", out="labelled.csv").rows       # doctest: +SKIP
        600
    """
    files = None if source == STDIN else find_files(str(source), "FILE", labelled=False)
    target = None if out is None else Path(out)
    if target is not None:
        writer_of(target)
    if files is None:
        refuse_names((text, text_pair), "standard input")
    classifier = load(run, weights=weights, rank=rank)
    if abstain is not None and classifier.regression:
        raise UsageError("a number has no probability to abstain below", hint="leave --abstain out")
    if abstain is not None and classifier.multi_label:
        what = "a text that may have several labels has no one probability to abstain below"
        raise UsageError(what, valid="--threshold LABEL=P, for each label its own", hint="leave --abstain out")
    classifier.least(thresholds)
    if files is None:
        texts = stream_texts(sys.stdin, "standard input", pair=classifier.pair)
    else:
        texts = open_texts(files, (text, text_pair), classifier.columns, pair=classifier.pair)
    result = FilePredictions(str(run), str(source), target)
    columns = answer_columns(classifier, texts.names, told=target is not None)
    listed = target is not None and target.suffix.lower() != CSV
    blank: list[int] = []
    labels: Counter[str] = Counter()
    with answer_file(target, columns) if target else nullcontext(None) as write:
        for row, answer in answered(classifier, texts, batch_size, thresholds):
            if not answer.label and answer.probabilities is None:
                result.blank += 1
                blank += [row.number] if result.blank <= SHOWN else []
            elif classifier.multi_label:
                labels.update(answer.labels)
                result.without += not answer.labels
            elif not answer.label or (answer.probability is not None and answer.probability < (abstain or 0.0)):
                answer = replace(answer, label="", labels=())
                result.abstained += 1
            elif not classifier.regression:
                labels.update(answer.labels)
            result.rows += 1
            if write is not None:
                write((*row.values, *answer_values(answer, classifier, listed=listed)))
            if on_answer is not None:
                on_answer(answer)
        if not result.rows:
            raise DataError("there is no row to label", where=texts.name)
    result.labels = dict(labels)  # the standard library's asdict would make pairs of a Counter's keys
    tell_blank(result.blank, blank, texts)
    return result


def answered(
    classifier: Classifier, texts: NewTexts, batch_size: int, thresholds: Mapping[str, float] | None
) -> Iterator[tuple[NewRow, Prediction]]:
    """Each row with its answer."""
    ahead, rows = tee(texts.rows)
    answers = classifier.stream((row.text for row in ahead), batch_size, thresholds=thresholds)
    return ((row, answer) for answer, row in zip(answers, rows, strict=True))


def answer_columns(classifier: Classifier, names: Sequence[str], *, told: bool = True) -> list[str]:
    """All columns of the file of answers; one of ours that the source has too is called differently, and that is ``told``."""
    ours = list(ANSWERS[:1] if classifier.regression or classifier.multi_label else ANSWERS)
    ours += [] if classifier.regression else [f"p({label})" for label in classifier.labels.values()]
    free = [free_name(name, names) for name in ours]
    if told and (clash := next((pair for pair in zip(ours, free, strict=True) if pair[0] != pair[1]), None)):
        logger.warning("the file has a column %s: the answers are in %s", *clash)
    return [*names, *free]


def free_name(name: str, names: Sequence[str]) -> str:
    """What a column of ours is called in a file with columns ``names``: no two columns have one name, however often it was labelled."""
    while name in names:
        name = f"predicted_{name}"
    return name


def answer_values(answer: Prediction, classifier: Classifier, *, listed: bool) -> list[Any]:
    """The values of our columns; None for what there is not. listed: whether several labels are a list."""
    if classifier.regression:
        return [float(answer.label) if answer.label else None]
    chances = answer.probabilities or dict.fromkeys(classifier.labels.values())
    if classifier.multi_label:
        there = list(answer.labels) if listed else answer.label
        return [None if answer.probabilities is None else there, *chances.values()]
    return [answer.label or None, answer.probability, *chances.values()]


def tell_blank(count: int, first: Sequence[int], texts: NewTexts) -> None:
    """Say which rows have no text."""
    if count:
        shown = ", ".join(map(str, first)) + (f" and {count - len(first):,} more" if count > len(first) else "")
        which = "row has" if count == 1 else "rows have"
        logger.warning("%s: %d %s no text and got no label (%s %s)", texts.name, count, which, texts.unit, shown)
