"""``lorakit eval``: the task's own metrics of a run or a checkpoint on a split, with a confidence interval."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.run import newest_run
from lorakit.errors import UsageError, nearest
from lorakit.recipe.schema import CUSTOM, TaskSection
from lorakit.tasks.metrics import interval, main_metric
from lorakit.tasks.sources import load_task
from lorakit.tasks.submission import write_predictions
from lorakit.tasks.task import TaskData, tasks
from lorakit.training.evaluation import decide, of_split, predict_logits, score_logits
from lorakit.training.objective import Objective
from lorakit.workflow.restore import Trained, restore_checkpoint, restore_run
from lorakit.workflow.setup import Result, encode_split, make_accelerator


@dataclass(frozen=True)
class EvalResult(Result):
    """Scores of ``source`` (a run or a model); none, and no interval, where the split has no labels.

    split: its name, or several with commas; rows: of all of them; interval: of the metric on the first.
    """

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
    rank: int | None = None,
) -> EvalResult:
    """Score a run (the newest of ``task`` where none is named) or a checkpoint.

    rank: how many of each site's rank units to use, all of them where none is given (see ``restoring.cut_to``).
    """
    if task != CUSTOM:
        tasks.get(task)
    if model is not None:
        if rank is not None:
            raise UsageError(
                "a checkpoint's adapters are folded in: it has no ranks to choose", valid="--rank with a run"
            )
        data = load_task(TaskSection(name=task), seed=0, offline=offline)
        trained = restore_checkpoint(model, data.task, offline=offline)
    else:
        path = Path(run) if run else newest_run(Path("runs"), task).path
        restored = restore_run(path, weights, offline=offline, rank=rank)
        data = restored.parts.data
        outputs = list(range(data.task.num_labels))
        used = f"{weights} weights" if rank is None else f"{weights} weights, rank {rank}"
        trained = Trained(restored.adapted, restored.loaded.recipe, outputs, f"{path} ({used})")
        if data.task.name != task:
            raise UsageError(
                f"this run learnt {data.task.name}, not {task}", where=str(path), hint=f"lorakit eval {data.task.name}"
            )
    return score_splits(trained, data, chosen_splits(data, split), predictions)


def score_splits(trained: Trained, data: TaskData, splits: Sequence[str], predictions: Path | None) -> EvalResult:
    """Predict the splits, score those that have labels, write the predictions where they are wanted.

    Metrics of the first split have their own names, those of further ones ``name/split``; the interval is the first's.
    """
    from scipy.special import softmax

    if predictions is not None and len(splits) > 1:
        raise UsageError("--predictions takes one split", valid=", ".join(splits), hint=f"--split {splits[0]}")
    task, metric = data.task, main_metric(data.task)
    adapted, recipe = trained.adapted, trained.recipe
    length = adapted.backbone.longest_text(recipe.task.max_length)
    objective = Objective(make_accelerator(recipe), task.regression)
    objective.accelerator.prepare_model(adapted.model)
    scores: dict[str, float] = {}
    bounds, rows = None, 0
    started = time.perf_counter()
    for split in splits:
        encoded = encode_split(data, split, adapted.backbone, length)
        logits = predict_logits(adapted.model, encoded, objective, recipe.evaluation.batch_size)[:, trained.order]
        decisions = decide(task, logits)
        rows += len(encoded)
        if encoded.labels is not None:
            scores |= of_split(score_logits(task, logits, encoded), split, splits)
            bounds = bounds or interval(task, metric, decisions, encoded.labels.numpy())
        if predictions is not None:
            chances = None if task.regression else softmax(logits, axis=1)
            write_predictions(predictions, task, encoded.idx, decisions, chances, split=split)
    return EvalResult(
        task=task.name,
        split=", ".join(splits),
        source=trained.source,
        rows=rows,
        scores=scores,
        metric=metric,
        interval=bounds,
        seconds=time.perf_counter() - started,
        predictions=predictions,
    )


def chosen_splits(data: TaskData, split: str | None) -> Sequence[str]:
    """The split that was asked for, or all validation splits. UsageError where there is none of that name."""
    if split is not None and split not in data.splits:
        raise UsageError(
            f"{data.task.name} has no split '{split}' here",
            valid=", ".join(data.splits),
            hint=nearest(split, data.splits),
        )
    return data.task.validation if split is None else (split,)
