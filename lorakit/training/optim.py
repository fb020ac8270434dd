"""The optimiser over the trained tensors, grouped by their roles, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lorakit.adapters.adapted_model import HEAD, AdaptedModel, TrainedTensor
from lorakit.adapters.delta import deltas
from lorakit.adapters.method import methods
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AUTO, Recipe, TrainingSection
from lorakit.training.hooks import Hook, RateCurve
from lorakit.training.optimizer import OptimizerKind, optimizers
from lorakit.training.schedule import Schedule
from lorakit.training.seeds import derive_seed

UNDECAYED = ("gate", "vector")
"""The roles of what something is multiplied by: decayed, it would take that away."""

# Schedule -> the share of the rate after so many of so many steps behind the warm-up.
DECAYS: dict[str, Callable[[int, int], float]] = {
    "linear": lambda done, steps: max(0.0, (steps - done) / max(1, steps)),
    "cosine": lambda done, steps: max(0.0, 0.5 * (1 + math.cos(math.pi * (done / max(1, steps))))),
    "constant": lambda done, steps: 1.0,
}


def make_optimizer(
    adapted: AdaptedModel, training: TrainingSection, base: float, *, seed: int = 0
) -> torch.optim.Optimizer:
    """The recipe's optimiser over ``rate_groups``; ``base`` is the learning rate of the adapters; seed: the run's."""
    kind, settings = chosen_optimizer(training)
    return kind.make(rate_groups(adapted, training, base), settings, derive_seed(seed, "optimizer"))


def rate_groups(adapted: AdaptedModel, training: TrainingSection, base: float) -> list[dict[str, Any]]:
    """One group a (learning rate, weight decay) pair; ``base`` is the learning rate of the adapters.

    Tensors of role B learn ``lr_ratio`` times faster (LoRA+), others as their delta says; the head at ``head_lr``. Vectors
    (magnitudes, biases, norms, also several in one tensor) and gates do not decay.
    """
    groups: dict[tuple[float, float, bool], list[torch.nn.Parameter]] = defaultdict(list)
    for tensor in adapted.trained():
        own = tensor.role == HEAD and training.head_lr is not None
        decay = training.weight_decay if tensor.parameter.ndim > 1 and tensor.role not in UNDECAYED else 0.0
        # what has a rate of its own stays apart from equal rates that are not settled yet
        groups[rate_of(adapted, training, base, tensor), decay, own and training.lr == AUTO].append(tensor.parameter)
    return [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay, _), group in groups.items()]


def chosen_optimizer(training: TrainingSection) -> tuple[OptimizerKind, dict[str, Any]]:
    """The recipe's optimiser, and the value of each of its options."""
    kind = optimizers.get(training.optimizer)
    return kind, kind.settings_from(training.optimizer_options)


def optimizer_bytes(adapted: AdaptedModel, training: TrainingSection) -> int:
    """What the recipe's optimiser keeps of everything that trains, with every site on."""
    kind, settings = chosen_optimizer(training)
    return sum(kind.state_bytes(tensor.parameter.shape, settings) for tensor in adapted.trained())


def largest_step(adapted: AdaptedModel, training: TrainingSection, device: torch.device) -> int:
    """Bytes that the recipe's optimiser makes for a moment, of the largest tensor: it takes one after the other."""
    kind, _ = chosen_optimizer(training)
    return max((kind.step_bytes(tensor.parameter.shape, device) for tensor in adapted.trained()), default=0)


def check_suits(adapted: AdaptedModel, training: TrainingSection) -> None:
    """RecipeError where the recipe's optimiser does not suit what trains."""
    kind, settings = chosen_optimizer(training)
    if problems := kind.refusals([tensor.parameter.shape for tensor in adapted.trained()], settings):
        raise RecipeError(problems)


def rate_of(adapted: AdaptedModel, training: TrainingSection, base: float, tensor: TrainedTensor) -> float:
    """The learning rate of a tensor where that of the adapters is ``base``."""
    if tensor.role == HEAD:
        return base if training.head_lr is None else training.head_lr
    return base * faster(adapted, tensor)


def set_rates(optimizer: torch.optim.Optimizer, adapted: AdaptedModel, training: TrainingSection, base: float) -> None:
    """Put an optimiser that was made with another ``base`` to this one; a schedule is to be made anew."""
    rates = {t.parameter: rate_of(adapted, training, base, t) for t in adapted.trained()}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["params"][0]]
        group.pop("initial_lr", None)


def base_rate(recipe: Recipe) -> float:
    """The learning rate that the recipe gives, or its method's usual one where it is to be found."""
    given = recipe.training.lr
    return methods.get(recipe.adapter.method).lr if given is None or isinstance(given, str) else given


def faster(adapted: AdaptedModel, tensor: TrainedTensor) -> float:
    """The learning rate of an adapter's tensor over the recipe's."""
    if tensor.site is None:
        return 1.0
    spec = adapted.adapters[tensor.site].spec
    rate: float = deltas.get(spec.delta).lr_factors.get(tensor.role, 1.0)
    return rate * (spec.lr_ratio if tensor.role == "B" else 1.0)


def make_scheduler(
    optimizer: torch.optim.Optimizer, training: TrainingSection, schedule: Schedule, hooks: Sequence[Hook] = ()
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up, then linear or cosine decay to zero, or constant; then what ``hooks`` make of it.

    Stepped once an optimiser step, whatever the processes.
    """
    curve = rate_curve(training, schedule.warmup_steps, schedule.total_steps)
    for hook in hooks:
        curve = hook.shape_rate(curve)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, curve)


def rate_curve(training: TrainingSection, warmup: int, total: int) -> RateCurve:
    """The recipe's schedule over ``total`` steps, of which ``warmup`` are the warm-up: the numbers of transformers' ``get_scheduler``,
    which brings the Trainer along, and PEFT where it is installed: seconds before the first step.
    """
    decay = DECAYS[training.schedule]

    def curve(step: int) -> float:
        return step / warmup if step < warmup else decay(step - warmup, total - warmup)

    return curve


def moments_of(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    """The optimiser's tensors of the parameter's own shape, of Adam the first moment and then the second; none before its first step."""
    return [
        value
        for _, value in sorted(optimizer.state.get(parameter, {}).items())
        if getattr(value, "shape", None) == parameter.shape
    ]
