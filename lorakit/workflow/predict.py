"""``lorakit predict`` and ``lorakit.load``: labels for new text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.calibration_file import temperature_in
from lorakit.artifacts.merge import read_merged
from lorakit.backbone.config_and_tokenizer import problem_type
from lorakit.errors import DataError, RunError, UsageError
from lorakit.recipe.schema import ModelSection, Recipe
from lorakit.result import Result
from lorakit.tasks.batching import Batch, Encoded, encoded_rows
from lorakit.tasks.label_order import order_by_name
from lorakit.tasks.new_texts import Text, has_half_pair, is_blank
from lorakit.tasks.table import short
from lorakit.tasks.tokens import tokens_of
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.ensembles import is_ensemble, members_of, together
from lorakit.workflow.parts import cut_of
from lorakit.workflow.restore import is_merged, read_as_trained, restore_merged, restore_run
from lorakit.workflow.thresholds import check_thresholds, reaching, with_labels

AHEAD = 16  # batches whose texts are read and sorted by length together, at most


@dataclass(frozen=True)
class Prediction(Result):
    """A text's label, or its labels.

    Attributes:
        text: the text, or the two texts of a pair.
        label: its label; for regression the number; empty where the text is blank, which has none, and where no label reaches its
            threshold. Where a text may have several, their names with a semicolon between them, or what no name has in it.
        probability: of that label, or the most probable one where there is none, between 0 and 1; None for regression, for a
            blank text, and where a text may have several labels.
        probabilities: of every label, in the order of the classifier's; None for regression and for a blank text. Where a text may have
            several labels they do not sum to 1: each is that of its label alone.
        labels: its one label, or all of those it has, in the order of the classifier's; none where the label is empty, and for regression.
    """

    text: Text
    label: str
    probability: float | None
    probabilities: dict[str, float] | None = None
    labels: tuple[str, ...] = ()


class Classifier:
    """A trained model that labels text.

    Attributes:
        model: the transformers model, adapters in place.
        tokenizer: that of transformers.
        labels: the name of each output.
        multi_label: whether a text may have any number of the labels.
        columns: what the run's data calls the column of texts, or the two of pairs; empty where that is not known.
        temperature: what logits are divided by before the softmax (see ``evaluation.calibrate``); 1 where there is none.

    A text without anything but blanks, or a pair of two such, has no label.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        recipe: Recipe,
        *,
        pair: bool,
        columns: tuple[str, ...] = (),
        temperature: float = 1.0,
    ):
        self.adapted = adapted
        self.model: Any = adapted.backbone.model
        self.tokenizer = adapted.backbone.tokenizer
        self.labels: dict[int, str] = self.model.config.id2label
        self.regression: bool = self.model.config.num_labels == 1
        self.multi_label: bool = self.model.config.problem_type == problem_type(regression=False, multi_label=True)
        self.cut = cut_of(recipe.task, adapted.backbone)
        self.pair, self.columns, self.temperature = pair, columns, temperature
        self.objective = put_on_device(self.model, recipe, regression=self.regression)
        self.model.eval()

    def predict(
        self, texts: Text | Iterable[Text], batch_size: int = 32, *, thresholds: Mapping[str, float] | None = None
    ) -> list[Prediction]:
        """Label one text, or every one of several, in order; a pair of texts is a tuple.

        thresholds: label -> the least probability it is answered with, else it is the next best label that reaches its own, or none.
        Raises UsageError for labels that there are not.
        """
        return list(self.stream(texts, batch_size, thresholds=thresholds))

    def stream(
        self, texts: Text | Iterable[Text], batch_size: int = 32, *, thresholds: Mapping[str, float] | None = None
    ) -> Iterator[Prediction]:
        """The same one by one, in bounded memory: no more than AHEAD batches of texts are drawn before they are answered."""
        least = self.least(thresholds)
        for chunk, outputs in self.answered(texts, batch_size):
            for text, found in zip(chunk, outputs, strict=True):
                yield reaching(self.prediction(text, found), least)

    def least(self, thresholds: Mapping[str, float] | None) -> dict[str, float]:
        """The thresholds by the names that the labels have here. UsageError for those of labels that there are not."""
        if thresholds and self.regression:
            raise UsageError("a number has no probability that could reach a threshold", hint="leave --threshold out")
        return check_thresholds(thresholds or {}, tuple(self.labels.values()))

    def predict_proba(self, texts: Text | Iterable[Text], batch_size: int = 32) -> NDArray[np.float32]:
        """The probability of each label (rows, labels), in the order of ``labels``; NaN for a blank text. Those of a text sum to 1, but
        where it may have several labels.

        Raises UsageError where the answer is a number.
        """
        if self.regression:
            raise UsageError("this model predicts a number, which has no probabilities", hint="predict")
        found = [outputs for _, outputs in self.answered(texts, batch_size)]
        return np.concatenate([np.empty((0, len(self.labels)), np.float32), *found])

    def answered(
        self, texts: Text | Iterable[Text], batch_size: int
    ) -> Iterator[tuple[list[Text], NDArray[np.float32]]]:
        """Chunks of texts with what ``outputs`` says of them. The first is one batch, so that an answer comes soon."""
        source, done, size = iter(self.several(texts)), 0, batch_size
        if batch_size < 1:
            raise UsageError(f"there are no batches of {batch_size} rows", valid="1 or more")
        while chunk := list(islice(source, size)):
            self.check(chunk, done)
            yield chunk, self.outputs(chunk, batch_size)
            done += len(chunk)
            size = min(2 * size, AHEAD * batch_size) if batch_size > 1 else 1

    def several(self, texts: Text | Iterable[Text]) -> Iterable[Text]:
        """Texts, of which one alone is one."""
        one = isinstance(texts, str) or (
            self.pair and isinstance(texts, tuple) and all(isinstance(t, str) for t in texts)
        )
        return [texts] if one else texts  # type: ignore[list-item]

    def check(self, chunk: Sequence[Text], done: int) -> None:
        """Refuse what is no text, single texts where the task is pairs, and pairs where it is not."""
        for place, text in enumerate(chunk, start=done + 1):
            parts = text if isinstance(text, tuple) else (text,)
            if not all(isinstance(part, str) for part in parts):
                raise DataError(f"text {place} is none: {short(text)}", valid="a str, or a tuple of two for a pair")
            if any(map(has_half_pair, parts)):
                raise DataError(f"text {place} has half of a surrogate pair, which is no character")
            if len(parts) != 1 + self.pair and not is_blank(text):
                want = "two texts with a tab between them" if self.pair else "one text without a tab"
                raise DataError(f"line {place} does not fit the task", valid=f"{want} on every line")

    @torch.inference_mode()
    def outputs(self, chunk: Sequence[Text], batch_size: int) -> NDArray[np.float32]:
        """Each label's probability (rows, labels), for regression the number (rows, 1); NaN for blank texts.

        Batches are of texts about as long as each other, so that little is padded.
        """
        found = np.full((len(chunk), len(self.labels)), np.nan, np.float32)
        rows = [row for row, text in enumerate(chunk) if not is_blank(text)]
        if not rows:
            return found
        encoded = self.encoded([chunk[row] for row in rows])
        batches = ([place for place in batch if encoded.lengths[place]] for batch in encoded.batches(batch_size))
        for batch in filter(None, batches):
            found[[rows[place] for place in batch]] = self.computed(encoded.collate(batch))
        return found

    def encoded(self, texts: Sequence[Text]) -> Encoded:
        """Texts that are not blank, as tokens."""
        parts = [text if isinstance(text, tuple) else (text,) for text in texts]
        made = tokens_of(list(zip(*parts, strict=True)), self.tokenizer, self.cut)
        return encoded_rows(made, self.tokenizer, padding=self.adapted.backbone.padding)

    def computed(self, batch: Batch) -> NDArray[np.float32]:
        """What ``outputs`` has of the rows of a batch."""
        logits = self.objective.logits(self.model, batch).cpu()
        if not logits.isfinite().all():
            raise RunError(
                "the model's outputs are not numbers: its weights are damaged, or its training diverged",
                where=self.adapted.backbone.name,
            )
        return (logits if self.regression else self.chances(logits)).numpy()

    def chances(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities (rows, labels)."""
        scaled = logits if self.temperature == 1.0 else logits / self.temperature
        return scaled.sigmoid() if self.multi_label else scaled.softmax(dim=-1)

    def prediction(self, text: Text, outputs: NDArray[np.float32]) -> Prediction:
        """What the outputs (labels,) say of a text."""
        if np.isnan(outputs[0]):
            return Prediction(text, "", None)
        if self.regression:
            return Prediction(text, f"{float(outputs[0]):.4f}", None)
        chances = {self.labels[place]: chance for place, chance in enumerate(outputs.tolist())}
        if self.multi_label:
            return with_labels(Prediction(text, "", None, chances), {})
        best = int(outputs.argmax())
        return Prediction(text, self.labels[best], float(outputs[best]), chances, (self.labels[best],))


class EnsembleClassifier(Classifier):
    """Several classifiers as one: the mean of their probabilities, or numbers. model and tokenizer are the first one's.

    Attributes:
        members: the classifiers.
    """

    def __init__(self, members: Sequence[Classifier]):
        vars(self).update(vars(members[0]))
        self.members = members
        wanted = tuple(self.labels.values())
        self.orders = [
            None if self.regression else order_by_name(tuple(each.labels.values()), wanted) for each in members
        ]

    def outputs(self, chunk: Sequence[Text], batch_size: int) -> NDArray[np.float32]:
        """The mean of what the members say."""
        found = [member.outputs(chunk, batch_size) for member in self.members]
        parts = [each if order is None else each[:, order] for each, order in zip(found, self.orders, strict=True)]
        return together(parts).astype(np.float32)


def load(path: str | Path, *, weights: str | None = None, rank: int | None = None) -> Classifier:
    """Load a trained classifier.

    Args:
        path: a run's folder, or one that `lorakit merge` wrote, shortcuts included.
        weights: of a run, the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        rank: use the first so many rank units of each site alone, which a run of search.method=dylora is made for.

    Returns:
        The classifier; its ``model`` and ``tokenizer`` are the transformers objects, adapters in place.

    Raises:
        UsageError: where there is no run, or no such rank.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> classifier = lorakit.load("runs/demo-0")                           # doctest: +SKIP
        >>> classifier.predict(["a film of quiet wonders"])[0].label           # doctest: +SKIP
        'positive'
    """
    path = Path(path)
    if is_ensemble(path):
        return EnsembleClassifier([load(run, weights=weights, rank=rank) for run in members_of(path)])
    if not is_merged(path):
        restored = restore_run(path, weights, with_data=False, rank=rank)
        task = restored.parts.task
        found = restored.temperature
        return Classifier(
            restored.adapted, restored.loaded.recipe, pair=task.pair, columns=task.text, temperature=found
        )
    if rank is not None:
        raise UsageError("a merged model has no ranks to choose", where=str(path), valid="the run it was made from")
    recipe, record = Recipe(model=ModelSection(name=str(path))), read_merged(path)
    read_as_trained(recipe.task, record)
    merged = restore_merged(recipe.model)
    return Classifier(merged, recipe, pair=record["pair"], temperature=temperature_in(record))


def predict(
    run: str | Path,
    texts: Text | Iterable[Text],
    *,
    weights: str | None = None,
    rank: int | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> list[Prediction]:
    """Label texts with a trained model.

    Args:
        run: a run's folder, or one that `lorakit merge` wrote.
        texts: one text, or any number of them; for a task on pairs, tuples of two.
        weights: of a run, the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        rank: use the first so many rank units of each site alone, which a run of search.method=dylora is made for.

        thresholds: label -> the least probability it is answered with, else it is the next best label that reaches its own, or none.

    Returns:
        The label of each text with its probability, in order.

    Raises:
        UsageError: where there is no run, no such rank or no such label.
        DataError: for single texts where the task is pairs, and pairs where it is not.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> for found in lorakit.predict("runs/demo-0", ["a film of quiet wonders"]):     # doctest: +SKIP
        ...     print(found.label, found.probability)
    """
    return load(run, weights=weights, rank=rank).predict(texts, thresholds=thresholds)
