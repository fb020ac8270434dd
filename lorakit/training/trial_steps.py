"""A few optimiser steps that are undone again: how far the model's answers move at a learning rate.

    D(lr) = root mean square, over probe rows and outputs, of the change of the logits after ``STEPS`` steps of AdamW at lr,
            without what all rows have in common

The steps are the training's own first ones, with its loss, its batches, its clipping and its optimiser's groups, at one rate without a
warm-up; logits are without dropout. A head that has a rate of its own stands still: what it does says nothing of the adapters' rate.
What all rows have in common is the frequency of the classes, which a head learns at once where they are uneven, whatever the rate is. Of
classes that exclude each other a shift that all logits of a row have in common counts nothing either, as softmax does not see it;
numbers to predict are measured by the deviation of the training rows' labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lorakit.searching.scoring import without_trace
from lorakit.tasks.batching import Batch, evaluation_batches
from lorakit.training.gradients import step_gradients
from lorakit.training.loader import StepBatch
from lorakit.training.nonfinite import SKIP
from lorakit.training.optim import make_optimizer
from lorakit.training.seeds import generator

if TYPE_CHECKING:
    from lorakit.training.training import Training

STEPS = 8
"""Optimiser steps of a trial."""
ROWS = 128
"""Training rows whose logits are looked at."""


class Trials:
    """Trial steps of a training that has not begun, each from where it stands.

    steps: this process's part of the training's first steps; probe: its part of the probe rows, as batches.
    """

    def __init__(self, training: Training):
        self.training = training
        self.steps = list(islice(all_steps(training), STEPS))
        self.stream = generator(training.recipe.run.seed, "rate")
        self.seed = int(torch.randint(2**31, (), generator=self.stream))
        self.probe = self.probe_batches()
        section = training.recipe.training
        self.section = section if section.head_lr is None else replace(section, head_lr=0.0)
        self.scale = scale_of_outputs(training)
        self.before: list[torch.Tensor] | None = None

    def change(self, lr: float) -> float:
        """D at ``lr``, the same number on every process; inf where the model diverged. Nothing of the training is changed."""
        training = self.training
        with undone(training, self.seed):
            if self.before is None:
                self.before = self.logits()
            optimizer = make_optimizer(training.adapted, self.section, lr)
            for step_batch in self.steps:
                take(training, optimizer, step_batch)
            return self.distance(self.logits(), self.before)

    def probe_batches(self) -> list[Batch]:
        """At most ``ROWS`` training rows, drawn from a stream of their own, this process's part of them."""
        encoded, recipe = self.training.loader.encoded, self.training.recipe
        rows = torch.randperm(len(encoded), generator=self.stream)[:ROWS].tolist()
        lengths = [encoded.lengths[row] for row in rows]
        places = evaluation_batches(lengths, recipe.evaluation.batch_size, equal=encoded.padding.equal)
        accelerator = self.training.accelerator
        mine = places[accelerator.process_index :: accelerator.num_processes]
        return [encoded.collate([rows[place] for place in part]) for part in mine]

    @torch.no_grad()
    def logits(self) -> list[torch.Tensor]:
        """(rows, outputs) of each batch of the probe."""
        model = self.training.adapted.model
        model.eval()
        found = [self.training.objective.logits(model, batch) for batch in self.probe]
        model.train()
        return found

    def distance(self, after: list[torch.Tensor], before: list[torch.Tensor]) -> float:
        """The root mean square of what lies between two sets of logits, of all processes' rows."""
        accelerator = self.training.accelerator
        rows, first, second = (torch.zeros((), device=accelerator.device) for _ in range(3))
        for new, old in zip(after, before, strict=True):
            moved = new - old
            if not (self.training.task.regression or self.training.objective.multi_label):
                moved -= moved.mean(dim=1, keepdim=True)
            rows, first, second = rows + len(moved), first + moved.sum(dim=0), second + moved.square().sum(dim=0)
        outputs = self.training.task.num_labels
        sums: Any = accelerator.reduce(torch.stack([part.expand(outputs) for part in (rows, first, second)]))
        rows, first, second = sums
        variance = float((second / rows - (first / rows).square()).clamp_min(0).mean())
        return math.sqrt(variance) / self.scale if math.isfinite(variance) else math.inf


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


@contextmanager
def undone(training: Training, seed: int) -> Iterator[None]:
    """Whatever is trained meanwhile, everything is as before: weights, buffers, gradients, modes, every random stream."""
    model = training.adapted.model
    held = [*training.parameters, *model.buffers()]
    before = [tensor.detach().clone() for tensor in held]
    try:
        with without_trace(training.adapted, train_mode=True, seed=seed, all_on=False):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)


def scale_of_outputs(training: Training) -> float:
    """What a change of the outputs is measured by: 1, or of numbers to predict the deviation of the training rows'."""
    labels = training.loader.encoded.labels
    if not training.task.regression or labels is None or len(labels) < 2:
        return 1.0
    return float(labels.double().std()) or 1.0
