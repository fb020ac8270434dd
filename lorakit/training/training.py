"""All that one training consists of, ready for the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import Run
from lorakit.recipe.schema import AUTO, Recipe
from lorakit.tasks.batching import Batch, SummedLoss
from lorakit.tasks.calibration import Calibration
from lorakit.tasks.task import Task
from lorakit.training.frozen_states import FrozenStates
from lorakit.training.graphs import Graphs
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.optim import make_scheduler, set_rates
from lorakit.training.rate import FoundRate
from lorakit.training.schedule import Schedule


@dataclass
class Training:
    """All that one training consists of.

    model: ``adapted.model`` as Accelerate prepared it; loss: what is trained on, summed over a batch's rows: the task's, and what
    updates add; evaluate: scores of the validation splits, whose logits it leaves in outputs; calibrate: the
    temperature for the first of these, where the recipe wants one; metric: the score that
    tells which evaluation is best; states: of the frozen lower layers, where there are such; head_reads: whether the head starts with what
    tells the labels apart, fitted or trained before; losses and norms: this process's loss and the
    gradient's norm of every step since the last log line; sharded: whether the processes share the frozen weights out, so that the
    gradients are still to be averaged.
    """

    recipe: Recipe
    task: Task
    run: Run
    adapted: AdaptedModel
    model: nn.Module
    accelerator: Accelerator
    objective: Objective
    loss: SummedLoss
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    schedule: Schedule
    loader: TrainLoader
    evaluate: Callable[[], dict[str, float]]
    calibrate: Callable[[], Calibration | None]
    metric: str
    state: TrainState
    hooks: Sequence[Hook] = ()
    graphs: Graphs | None = None
    states: FrozenStates | None = None
    losses: list[torch.Tensor] = field(default_factory=list)
    norms: list[torch.Tensor] = field(default_factory=list)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    head_reads: bool = False
    sharded: bool = False

    def __post_init__(self) -> None:
        self.parameters = [tensor.parameter for tensor in self.adapted.trained()]
        self.state.watch(self.losses, self.accelerator.num_processes)

    def passes(self, compute: Callable[[Batch], torch.Tensor], batch: Batch) -> torch.Tensor:
        """``compute(batch)``, by a graph where the training has them."""
        return self.graphs.run(compute, batch) if self.graphs else compute(batch)

    @property
    def rate_is_open(self) -> bool:
        """Whether the learning rate is still to be found, before the first step."""
        return self.recipe.training.lr == AUTO and self.state.rate is None

    def use_rate(self, rate: FoundRate, seconds: float) -> None:
        """Train at the rate that was found, and remember it."""
        self.state.rate, self.state.rate_seconds, self.state.lr = rate.to_dict(), seconds, rate.lr
        set_rates(self.optimizer, self.adapted, self.recipe.training, rate.lr)
        self.scheduler = make_scheduler(self.optimizer, self.recipe.training, self.schedule, self.hooks)
        if self.accelerator.is_main_process:
            write_json(self.run.rate, self.state.rate | {"seconds": seconds})

    def call(self, point: str) -> None:
        """Every hook's method of this name."""
        for hook in self.hooks:
            getattr(hook, point)(self.state)
