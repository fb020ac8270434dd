"""``lorakit predict`` and ``lorakit.load``: labels for new text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.merge import read_merged, restore_shortcuts
from lorakit.artifacts.records import read_record, reading
from lorakit.backbone.load import load_backbone
from lorakit.errors import DataError, RunError, UsageError
from lorakit.recipe.schema import ModelSection, Recipe
from lorakit.training.objective import Objective
from lorakit.workflow.restore import is_merged, restore_run
from lorakit.workflow.setup import Result, make_accelerator

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Prediction(Result):
    """A text's label and its probability; for regression the number, and no probability."""

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
        accelerator = make_accelerator(recipe)
        accelerator.prepare_model(self.model)
        self.objective = Objective(accelerator, self.regression)
        self.model.eval()

    def predict(self, texts: Iterable[Text], batch_size: int = 32) -> list[Prediction]:
        """Label every text, in order; a pair of texts is a tuple."""
        predictions: list[Prediction] = []
        stream = iter(texts)
        while batch := list(islice(stream, batch_size)):
            self.check(batch, len(predictions))
            predictions += self.label(batch)
        return predictions

    def check(self, batch: Sequence[Text], done: int) -> None:
        """Refuse single texts where the task is pairs, and pairs where it is not."""
        for place, text in enumerate(batch, start=done + 1):
            if isinstance(text, tuple) != self.pair:
                want = "two texts with a tab between them" if self.pair else "one text without a tab"
                raise DataError(f"line {place} does not fit the task", valid=f"{want} on every line")

    @torch.no_grad()
    def label(self, batch: Sequence[Text]) -> list[Prediction]:
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


def load(path: str | Path, weights: str = "last", rank: int | None = None) -> Classifier:
    """A trained classifier from a run's folder or from one that `lorakit merge` wrote, shortcuts included.

    rank: how many of each site's rank units to use, all of them where none is given (see ``restoring.cut_to``).
    """
    path = Path(path)
    if is_merged(path):
        if rank is not None:
            raise UsageError("a merged model has no ranks to choose", where=str(path), valid="the run it was made from")
        labels, regression = told_labels(path / "config.json")
        recipe = Recipe(model=ModelSection(name=str(path)))
        backbone = load_backbone(
            recipe.model, labels=() if regression else labels, regression=regression, seed=0, offline=True
        )
        record = read_merged(path)
        recipe.task.max_length = record["max_length"]
        return Classifier(restore_shortcuts(backbone, path), recipe, pair=record["pair"])
    restored = restore_run(path, weights, with_data=False, rank=rank)
    return Classifier(restored.adapted, restored.loaded.recipe, pair=restored.parts.task.pair)


def told_labels(path: Path) -> tuple[tuple[str, ...], bool]:
    """The labels that a merged model's config.json names, in order, and whether it predicts a number. RunError where it is broken."""
    what = "a merged model's configuration"
    config = read_record(path, what)
    with reading(path, what):
        named = {int(number): name for number, name in config["id2label"].items()}
        if sorted(named) != [*range(len(named))] or not all(isinstance(name, str) for name in named.values()):
            raise ValueError("id2label does not name each output once")
        return tuple(named[number] for number in sorted(named)), config.get("problem_type") == "regression"


def predict(run: Path, lines: Iterable[Text], weights: str = "last", rank: int | None = None) -> list[Prediction]:
    """Label each line with the run's (or the merged folder's) model."""
    return load(run, weights, rank).predict(lines)
