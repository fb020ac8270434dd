"""What the loop calls, and when. A hook is an object with any of these methods; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat

if TYPE_CHECKING:
    import torch

RateCurve = Callable[[int], float]
"""Steps done -> the learning rate of the next one, over the full rate."""

NEWEST = 5
"""Steps whose mean is called the newest loss."""


@dataclass
class TrainState:
    """Where a training is.

    step: optimiser steps done; skipped: those left out because a gradient was not finite; loss: mean over the steps since the line
    before; scores: the last evaluation; best: the best one so far as {"step", "epoch", "scores"}; next_tick: the step before which the
    search acts next; seconds: training time, that before an interruption included; waited: evaluations since the score that counts
    as the last improvement, and improved: that score, where the recipe stops early; stopped: whether it did; rate: how the learning
    rate was found (``FoundRate`` as a dictionary), where the recipe leaves it to be found; rate_seconds: how long that took.
    """

    total_steps: int
    steps_per_epoch: int
    step: int = 0
    loss: float | None = None
    lr: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    sites_on: int = 0
    sites_total: int = 0
    next_tick: int | None = None
    seconds: float = 0.0
    skipped: list[int] = field(default_factory=list)
    waited: int = 0
    improved: float | None = None
    stopped: bool = False
    rate: dict[str, Any] | None = None
    rate_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.pending: Sequence[SupportsFloat] = ()  # no field: checkpoints have these losses elsewhere
        self.shares = 1

    def watch(self, pending: Sequence[SupportsFloat], shares: int) -> None:
        """Look at ``pending``, the loss of every step since the line before, of which this process has one of ``shares`` parts."""
        self.pending, self.shares = pending, shares

    def fresh_loss(self) -> float | None:
        """The mean loss of the last ``NEWEST`` steps, of this process's rows; before any of them, that of the line before.

        A GPU is waited for: for a display, and not at every step.
        """
        newest = [float(loss) for loss in self.pending[-NEWEST:]]
        return self.shares * sum(newest) / len(newest) if newest else self.loss

    @property
    def epoch(self) -> float:
        """Epochs done, as a fraction."""
        return self.step / self.steps_per_epoch


class Hook:
    """Does nothing at every point of a training; override those you need.

    name: under which checkpoints keep its state, one of a kind in a training; empty for a hook that has none; steady: whether all
    steps between two ticks compute the same function of weights and batch, by the same path through the code; reshapes: whether the
    frozen model has another shape until the hook has settled, so that no evaluation before then can be the best one.
    """

    name: ClassVar[str] = ""
    steady: bool = True
    reshapes: ClassVar[bool] = False

    def settled(self, state: TrainState) -> bool:
        """Whether the training may end here: nothing that this hook has to come to, a budget say, is still under way."""
        return True

    def shape_rate(self, curve: RateCurve) -> RateCurve:
        """The learning rate's course, given the one so far; itself by default. Asked for once the schedule is made."""
        return curve

    def on_train_begin(self, state: TrainState) -> None:
        """Once, before the first step of this process."""

    def on_tick(self, state: TrainState) -> None:
        """At a search tick, between two steps: no gradients are pending."""

    def before_forward(self, state: TrainState) -> None:
        """Before a step's first forward pass."""

    def after_backward(self, state: TrainState) -> None:
        """Gradients of the whole step are there, as the loss gives them: not yet clipped."""

    def before_optimizer_step(self, state: TrainState) -> None:
        """Gradients of the whole step are there, clipped, not yet used."""

    def after_step(self, state: TrainState) -> None:
        """The optimiser has stepped; ``state.step`` counts it, and the gradients it used are still there."""

    def after_trial_step(self) -> None:
        """A step was taken that will be undone (``trial_steps``): put back what no step may move, and remember nothing of it.

        No other point is called within such steps.
        """

    def on_log(self, state: TrainState) -> None:
        """``state.loss`` is fresh."""

    def before_evaluation(self, state: TrainState) -> None:
        """The validation splits are about to be scored."""

    def on_evaluation(self, state: TrainState) -> None:
        """``state.scores`` and ``state.best`` are fresh."""

    def on_epoch_end(self, state: TrainState) -> None:
        """All rows of an epoch were seen; its evaluation is done, its checkpoint not yet written."""

    def on_train_end(self, state: TrainState) -> None:
        """Once, after the last step."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state for checkpoints; kept only of a hook with a ``name``."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""

    def tensor_state(self) -> dict[str, torch.Tensor]:
        """What of the state is too large for JSON; kept beside it, of a hook with a ``name``."""
        return {}

    def load_tensor_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue from ``tensor_state()`` too, after ``load_state_dict``; called where there are any."""
