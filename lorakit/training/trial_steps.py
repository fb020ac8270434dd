"""A few optimiser steps that are undone again: how much better the adapters alone tell rows apart by their labels at a learning rate.

    D(lr) = (L - L') / L        L, L': the least loss (``told_apart``) of probe rows before and after ``STEPS`` optimiser steps at lr

The steps are the training's own first ones, with its loss, its batches, its clipping and its optimiser's groups, at one rate without a
warm-up. The head stands still. Probe rows are looked at without dropout, as many of each class as there are; where logits differ less
than ``COLLAPSED`` of what they did from row to row, the model answers the same whatever it reads, and that is worse than any loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.backbone.quantised import quantised_modules
from lorakit.searching.scoring import without_trace
from lorakit.tasks.batching import Batch, evaluation_batches
from lorakit.training.evaluation import shared_out
from lorakit.training.gradients import step_gradients
from lorakit.training.loader import StepBatch
from lorakit.training.nonfinite import SKIP
from lorakit.training.optim import make_optimizer
from lorakit.training.seeds import generator
from lorakit.training.told_apart import least_loss, spread

if TYPE_CHECKING:
    from lorakit.training.training import Training

STEPS = 16
"""Optimiser steps of a trial."""
ROWS = 128
"""Training rows that are looked at."""
COLLAPSED = 0.25


class Trials:
    """Trial steps of a training that has not begun, each from where it stands.

    steps: this process's part of the training's first steps; probe: its part of the probe rows, place -> batch.
    """

    def __init__(self, training: Training):
        self.training = training
        self.steps = list(islice(all_steps(training), STEPS))
        self.stream = generator(training.recipe.run.seed, "rate")
        self.seed = int(torch.randint(2**31, (), generator=self.stream))
        self.probe = self.probe_batches()
        self.section = replace(training.recipe.training, head_lr=0.0)
        self.before: Look | None = None

    def fall(self, lr: float) -> float:
        """D at ``lr``, the same number on every process, below 0 where rows are told apart worse; -inf where the model broke.

        Nothing of the training is changed.
        """
        training = self.training
        with undone(training, self.seed):
            if self.before is None:
                self.before = self.look()
            optimizer = make_optimizer(training.adapted, self.section, lr, seed=training.recipe.run.seed)
            for step_batch in self.steps:
                take(training, optimizer, step_batch)
            after = self.look()
        if after is None or self.before is None or after.spread < COLLAPSED * self.before.spread:
            return -math.inf
        return (self.before.loss - after.loss) / self.before.loss if self.before.loss else 0.0

    def probe_batches(self) -> dict[int, Batch]:
        """This process's part of at most ``ROWS`` training rows, which are drawn from a stream of their own, by their first one's place."""
        encoded, recipe = self.training.loader.encoded, self.training.recipe
        rows = torch.randperm(len(encoded), generator=self.stream).numpy()
        labels = encoded.labels
        if labels is not None and labels.ndim == 1 and not self.training.task.regression:
            rows = evenly(rows, labels.numpy())
        rows = rows[:ROWS]
        places = evaluation_batches(
            [encoded.lengths[row] for row in rows], recipe.evaluation.batch_size, equal=encoded.padding.equal
        )
        mine = shared_out(places, self.training.accelerator)
        return {part[0]: encoded.collate([int(rows[place]) for place in part]) for part in mine}

    @torch.no_grad()
    def look(self) -> Look | None:
        """How the probe's rows are told apart, those of all processes; None where a logit is no number."""
        model, objective = self.training.adapted.model, self.training.objective
        model.eval()
        found = [
            (place, (objective.logits(model, batch).cpu().numpy(), batch["labels"].numpy()))
            for place, batch in self.probe.items()
        ]
        model.train()
        each = dict(gather_object(found))  # one that stood in for none is there twice
        logits, labels = (np.concatenate(parts) for parts in zip(*each.values(), strict=True))
        if not np.isfinite(logits).all():
            return None
        regression, multi_label = objective.regression, objective.multi_label
        loss = least_loss(logits, labels, regression=regression, multi_label=multi_label)
        return Look(loss, spread(logits, softmax=not (regression or multi_label)))


@dataclass(frozen=True)
class Look:
    """loss: the least, of the probe's rows; spread: how far their logits differ from row to row."""

    loss: float
    spread: float


def evenly(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in their order, but for each further one of a class behind those of which there are fewer so far."""
    nth = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        of_it = labels[rows] == label
        nth[of_it] = np.arange(of_it.sum())
    return rows[np.argsort(nth, kind="stable")]


def all_steps(training: Training) -> Iterator[StepBatch]:
    """The training's steps from the first one on, epoch after epoch."""
    for epoch in count():
        yield from training.loader.step_batches(epoch)


def take(training: Training, optimizer: torch.optim.Optimizer, step_batch: StepBatch) -> None:
    """A step as the training takes it, of which no hook hears but to put back what does not move."""
    step_gradients(training, step_batch)
    norm = nn.utils.clip_grad_norm_(training.parameters, training.recipe.training.clip or math.inf)
    if training.recipe.training.nonfinite != SKIP or norm.isfinite():
        optimizer.step()
    for hook in training.hooks:
        hook.after_trial_step()
    for parameter in training.parameters:
        parameter.grad = None


def may_change(adapted: AdaptedModel) -> list[torch.Tensor]:
    """What trial steps may change, and is copied before them: what trains and all buffers, but those of quantised weights."""
    frozen = {id(buffer) for module in quantised_modules(adapted.model) for buffer in module.buffers(recurse=False)}
    buffers = [buffer for buffer in adapted.model.buffers() if id(buffer) not in frozen]
    return [*(tensor.parameter for tensor in adapted.trained()), *buffers]


@contextmanager
def undone(training: Training, seed: int) -> Iterator[None]:
    """Whatever is trained meanwhile, everything is as before: weights, buffers, gradients, modes, every random stream."""
    held = may_change(training.adapted)
    before = [tensor.detach().clone() for tensor in held]
    try:
        with without_trace(training.adapted, train_mode=True, seed=seed, all_on=False):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)
