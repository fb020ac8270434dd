"""``lorakit predict`` and ``lorakit.load``: labels for new text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.merge import read_merged
from lorakit.errors import DataError, RunError, UsageError
from lorakit.recipe.schema import ModelSection, Recipe
from lorakit.result import Result
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.restore import is_merged, restore_merged, restore_run

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Prediction(Result):
    """A text's label.

    Attributes:
        text: the text, or the two texts of a pair.
        label: its label; for regression the number.
        probability: of that label, between 0 and 1; None for regression.
    """

    text: Text
    label: str
    probability: float | None


class Classifier:
    """A trained model that labels text. model and tokenizer are the transformers objects, adapters in place."""

    def __init__(self, adapted: AdaptedModel, recipe: Recipe, *, pair: bool):
        self.adapted = adapted
        self.model: Any = adapted.backbone.model
        self.tokenizer = adapted.backbone.tokenizer
        self.labels: dict[int, str] = self.model.config.id2label
        self.regression: bool = self.model.config.num_labels == 1
        self.max_length = adapted.backbone.longest_text(recipe.task.max_length)
        self.pair = pair
        self.objective = put_on_device(self.model, recipe, regression=self.regression)
        self.model.eval()

    def predict(self, texts: Iterable[Text], batch_size: int = 32) -> list[Prediction]:
        """Label every text, in order; a pair of texts is a tuple."""
        predictions: list[Prediction] = []
        stream = iter(texts)
        while batch := list(islice(stream, batch_size)):
            self.check_texts(batch, len(predictions))
            predictions += self.label_batch(batch)
        return predictions

    def check_texts(self, batch: Sequence[Text], done: int) -> None:
        """Refuse single texts where the task is pairs, and pairs where it is not."""
        for place, text in enumerate(batch, start=done + 1):
            if isinstance(text, tuple) != self.pair:
                want = "two texts with a tab between them" if self.pair else "one text without a tab"
                raise DataError(f"line {place} does not fit the task", valid=f"{want} on every line")

    @torch.no_grad()
    def label_batch(self, batch: Sequence[Text]) -> list[Prediction]:
        """One batch."""
        columns = list(zip(*batch, strict=True)) if self.pair else [batch]
        inputs = self.tokenizer(
            *[list(column) for column in columns],
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )
        logits = self.objective.logits(self.model, inputs).cpu()
        if not logits.isfinite().all():
            raise RunError(
                "the model's outputs are not numbers: its weights are damaged, or its training diverged",
                where=self.adapted.backbone.name,
            )
        if self.regression:
            return [Prediction(text, f"{float(row[0]):.4f}", None) for text, row in zip(batch, logits, strict=True)]
        chances = logits.softmax(dim=-1)
        return [
            Prediction(text, self.labels[int(row.argmax())], float(row.max()))
            for text, row in zip(batch, chances, strict=True)
        ]


def load(path: str | Path, *, weights: str = "last", rank: int | None = None) -> Classifier:
    """Load a trained classifier.

    Args:
        path: a run's folder, or one that `lorakit merge` wrote, shortcuts included.
        weights: of a run, the ``last`` ones, or the ``best`` on the validation split.
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
    if not is_merged(path):
        restored = restore_run(path, weights, with_data=False, rank=rank)
        return Classifier(restored.adapted, restored.loaded.recipe, pair=restored.parts.task.pair)
    if rank is not None:
        raise UsageError("a merged model has no ranks to choose", where=str(path), valid="the run it was made from")
    recipe, record = Recipe(model=ModelSection(name=str(path))), read_merged(path)
    recipe.task.max_length = record["max_length"]
    return Classifier(restore_merged(recipe.model), recipe, pair=record["pair"])


def predict(
    run: str | Path, texts: Iterable[Text], *, weights: str = "last", rank: int | None = None
) -> list[Prediction]:
    """Label texts with a trained model.

    Args:
        run: a run's folder, or one that `lorakit merge` wrote.
        texts: any number of texts; for a task on pairs, of tuples of two.
        weights: of a run, the ``last`` ones, or the ``best`` on the validation split.
        rank: use the first so many rank units of each site alone, which a run of search.method=dylora is made for.

    Returns:
        The label of each text with its probability, in order.

    Raises:
        UsageError: where there is no run, or no such rank.
        DataError: for single texts where the task is pairs, and pairs where it is not.
        RunError: for a run that is not trained yet, or whose files are damaged.

    Example:
        >>> for found in lorakit.predict("runs/demo-0", ["a film of quiet wonders"]):     # doctest: +SKIP
        ...     print(found.label, found.probability)
    """
    return load(run, weights=weights, rank=rank).predict(texts)
