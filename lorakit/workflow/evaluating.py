"""``lorakit eval``: the task's own metrics of a run or a checkpoint on a split, with a confidence interval."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from lorakit import registry
from lorakit.adapters.attach import AdaptedModel
from lorakit.artifacts.run import newest_run
from lorakit.errors import UsageError, nearest
from lorakit.recipe.schema import Recipe, TaskSection
from lorakit.tasks.batching import encode
from lorakit.tasks.metrics import interval, main_metric
from lorakit.tasks.sources import load_task
from lorakit.tasks.submission import write_predictions
from lorakit.tasks.task import TaskData
from lorakit.training.evaluation import decide, predict_logits, score_logits
from lorakit.training.objective import Objective
from lorakit.workflow.building import Result, make_accelerator, talk
from lorakit.workflow.restoring import restore_checkpoint, restore_run


@dataclass(frozen=True)
class EvalResult(Result):
    """Scores of ``source`` (a run or a model) on a split; none, and no interval, where the split has no labels."""

    task: str
    split: str
    source: str
    rows: int
    scores: dict[str, float]
    metric: str
    interval: tuple[float, float] | None
    seconds: float
    predictions: Path | None


def evaluate(
    task: str,
    *,
    run: Path | None = None,
    model: str | None = None,
    split: str | None = None,
    weights: str = "last",
    predictions: Path | None = None,
    offline: bool = False,
) -> EvalResult:
    """Score a run (the newest of ``task`` where none is named) or a checkpoint."""
    if model is not None:
        registry.tasks.get(task)
        section = TaskSection(name=task)
        data = load_task(section, seed=0, offline=offline)
        adapted, recipe = restore_checkpoint(model, data.task, offline=offline)
        source = model
    else:
        path = run or newest_run(Path("runs"), task).path
        restored = restore_run(path, weights, offline=offline)
        data, adapted, recipe = restored.parts.data, restored.adapted, restored.loaded.recipe
        source = f"{path} ({weights} weights)"
        if data.task.name != task:
            raise UsageError(
                f"this run learnt {data.task.name}, not {task}", where=str(path), hint=f"lorakit eval {data.task.name}"
            )
    return score_split(adapted, recipe, data, split or data.task.validation[0], source, predictions)


def score_split(
    adapted: AdaptedModel, recipe: Recipe, data: TaskData, split: str, source: str, predictions: Path | None
) -> EvalResult:
    """Predict a split, score it where it has labels, write the predictions where they are wanted."""
    if split not in data.splits:
        raise UsageError(
            f"{data.task.name} has no split '{split}' here",
            valid=", ".join(data.splits),
            hint=nearest(split, data.splits),
        )
    tokenizer = adapted.backbone.tokenizer
    length = min(recipe.task.max_length, tokenizer.model_max_length)
    encoded = encode(data.splits[split], tokenizer, length, split)
    if encoded.truncated:
        talk.info("%s: %d of %d rows are cut to %d tokens", split, encoded.truncated, len(encoded), length)
    accelerator = make_accelerator(recipe)
    accelerator.prepare_model(adapted.model)
    started = time.perf_counter()
    objective = Objective(accelerator, data.task.regression)
    logits = predict_logits(adapted.model, encoded, objective, recipe.evaluation.batch_size)
    seconds = time.perf_counter() - started
    task, metric, decisions = data.task, main_metric(data.task), decide(data.task, logits)
    labelled = encoded.labels is not None
    if predictions is not None:
        chances = None if task.regression else softmax(logits, axis=1)
        write_predictions(predictions, task, encoded.idx, decisions, chances, split=split)
    return EvalResult(
        task=task.name,
        split=split,
        source=source,
        rows=len(encoded),
        scores=score_logits(task, logits, encoded) if labelled else {},
        metric=metric,
        interval=interval(task, metric, decisions, np.asarray(encoded.labels)) if labelled else None,
        seconds=seconds,
        predictions=predictions,
    )
