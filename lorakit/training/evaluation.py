"""Predictions over whole splits, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from lorakit.tasks.batching import Encoded
from lorakit.tasks.calibration import probabilities
from lorakit.tasks.metrics import score
from lorakit.tasks.task import Task
from lorakit.training.objective import Objective


@torch.no_grad()
def predict_logits(model: nn.Module, encoded: Encoded, objective: Objective, batch_size: int) -> np.ndarray:
    """(rows, labels), float32, in row order; batches are shared out over the processes, and the model's mode is put back.

    A process that has no batch left passes the first one again: where weights are sharded, no other can go on without it.
    """
    accelerator, training = objective.accelerator, model.training
    model.eval()
    mine = shared_out(encoded.batches(batch_size), accelerator)
    parts = [(rows, objective.logits(model, encoded.collate(rows)).cpu().numpy()) for rows in mine]
    model.train(training)
    gathered = gather_object(parts) if accelerator.num_processes > 1 else parts
    logits = np.zeros((len(encoded), gathered[0][1].shape[1]), dtype=np.float32)
    for rows, part in gathered:
        logits[rows] = part
    return logits


def shared_out(batches: Sequence[list[int]], accelerator: Accelerator) -> list[list[int]]:
    """This process's part of the batches, as many as every other's; the first one stands in where there are none left."""
    rounds = range(0, len(batches), accelerator.num_processes)
    places = [start + accelerator.process_index for start in rounds]
    return [batches[place if place < len(batches) else 0] for place in places]


def decide(task: Task, logits: np.ndarray) -> np.ndarray:
    """Predictions (n,) from logits: class ids, or numbers for regression; (n, labels) of 0 and 1 for several labels a row, each of
    which is given from a probability of one half.
    """
    if task.multi_label:
        return (logits >= 0).astype(np.int64)
    return logits[:, 0] if task.regression else logits.argmax(axis=1)


def probabilities_of(task: Task, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray | None:
    """Probabilities (n, labels) from logits, which sum to 1 but for several labels a row; None for regression."""
    from scipy.special import expit

    if task.regression:
        return None
    if not task.multi_label:
        return probabilities(logits, temperature)
    found: np.ndarray = expit(logits)
    return found


def score_logits(task: Task, logits: np.ndarray, encoded: Encoded) -> dict[str, float]:
    """The task's metrics over a labelled split."""
    if encoded.labels is None:
        raise ValueError("scoring needs labels")
    return score(task, decide(task, logits), encoded.labels.numpy())


def score_splits(
    model: nn.Module,
    task: Task,
    splits: Mapping[str, Encoded],
    objective: Objective,
    batch_size: int,
    outputs: dict[str, np.ndarray],
) -> dict[str, float]:
    """The metrics of the task's validation splits: those of the first under their own names, further ones as ``name/split``.

    outputs: filled with the logits of each.
    """
    scores: dict[str, float] = {}
    for split in task.validation:
        logits = predict_logits(model, splits[split], objective, batch_size)
        scores |= of_split(score_logits(task, logits, splits[split]), split, task.validation)
        outputs[split] = logits
    return scores


def of_split(scores: Mapping[str, float], split: str, splits: Sequence[str]) -> dict[str, float]:
    """The scores under their own names where ``split`` is the first of ``splits``, else as ``name/split``."""
    return {name if split == splits[0] else f"{name}/{split}": value for name, value in scores.items()}
