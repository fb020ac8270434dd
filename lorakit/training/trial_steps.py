"""A few optimiser steps that are undone again: how far the adapters alone bring the loss down at a learning rate.

    D(lr) = (L - L') / L        L, L': the training's loss of probe rows before and after ``STEPS`` steps of AdamW at lr, without dropout

The steps are the training's own first ones, with its loss, its batches, its clipping and its optimiser's groups, at one rate without a
warm-up. The head stands still: it learns how frequent the classes are at once, whatever the adapters do.
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
ROWS = 64
"""Training rows whose loss is looked at."""


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
        self.section = replace(training.recipe.training, head_lr=0.0)
        self.before: float | None = None

    def fall(self, lr: float) -> float:
        """D at ``lr``, the same number on every process, below 0 where the loss rises; -inf where the model diverged.

        Nothing of the training is changed.
        """
        training = self.training
        with undone(training, self.seed):
            if self.before is None:
                self.before = self.loss()
            optimizer = make_optimizer(training.adapted, self.section, lr)
            for step_batch in self.steps:
                take(training, optimizer, step_batch)
            after = self.loss()
        fall = (self.before - after) / self.before if self.before else 0.0
        return fall if math.isfinite(fall) else -math.inf

    def probe_batches(self) -> list[Batch]:
        """At most ``ROWS`` training rows, drawn from a stream of their own, this process's part of them."""
        encoded, recipe = self.training.loader.encoded, self.training.recipe
        rows = torch.randperm(len(encoded), generator=self.stream)[:ROWS].tolist()
        lengths = [encoded.lengths[row] for row in rows]
        places = evaluation_batches(lengths, recipe.evaluation.batch_size, equal=encoded.padding.equal)
        accelerator = self.training.accelerator
        mine = places[accelerator.process_index :: accelerator.num_processes]
        loader = self.training.loader  # which knows how much the rows of each class weigh
        return [loader.collate([rows[place] for place in part], rows) for part in mine]

    @torch.no_grad()
    def loss(self) -> float:
        """The mean loss of the probe's rows, of all processes."""
        model, objective, accelerator = self.training.adapted.model, self.training.objective, self.training.accelerator
        model.eval()
        summed = torch.zeros(2, device=accelerator.device)
        for batch in self.probe:
            summed += torch.stack([objective.summed(model, batch), summed.new_tensor(len(batch["labels"]))])
        model.train()
        total: Any = accelerator.reduce(summed)
        return float(total[0] / total[1])


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
