"""What a data-driven init needs to know of the training data, from a few training batches before any adapter is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.attach import NO_SITE_STATISTICS
from lorakit.adapters.init import inits
from lorakit.backbone.site import Site
from lorakit.errors import RunError
from lorakit.searching.input_statistics import input_means
from lorakit.searching.scoring import without_trace
from lorakit.searching.weight_gradients import squared_gradients, weight_gradients
from lorakit.tasks.batching import Batch, Encoded
from lorakit.training.loader import TrainLoader
from lorakit.training.objective import Objective
from lorakit.training.seeds import derive_seed, generator
from lorakit.workflow.accelerator import make_accelerator
from lorakit.workflow.objective import objective_of
from lorakit.workflow.parts import Parts

Statistics = Mapping[str, Mapping[str, torch.Tensor]]
"""Site name -> the fields of InitContext that come from data."""
ROWS = "init/rows"


def calibrate(parts: Parts, encoded: Encoded) -> Statistics:
    """What the recipe's init needs of training rows, a seeded sample of ``encoded``; empty where it needs nothing of them.

    Without dropout, at the weights' own precision, and without a trace on the model. Every process gets the same, from the same rows.
    Raises RunError where a number is not finite.
    """
    init = inits.get(parts.linear.init)
    if init.needs not in MEASURES:
        return NO_SITE_STATISTICS
    return measure(parts, encoded, init.needs, f"init '{init.name}'", ROWS)


def measure(parts: Parts, encoded: Encoded, what: str, whose: str, stream: str) -> Statistics:
    """``what`` of MEASURES over ``adapter.init_batches`` batches of a seeded sample, drawn from ``stream``, at the linear sites.

    Raises RunError, which says for ``whose`` sake, where a number is not finite.
    """
    recipe, model = parts.recipe, parts.backbone.model
    loader = TrainLoader(encoded, recipe.training, derive_seed(recipe.run.seed, "data"), weights=parts.row_weights)
    batches = loader.sample(recipe.adapter.init_batches, generator(recipe.run.seed, stream))
    accelerator = make_accelerator(replace(recipe, training=replace(recipe.training, precision="fp32")))
    sites = [site for site in parts.sites if site.kind in ("linear", "conv1d")]
    home = next(model.parameters()).device
    model.to(accelerator.device)
    try:
        with without_trace(
            AdaptedModel(parts.backbone, {}, None), train_mode=False, seed=derive_seed(recipe.run.seed, stream)
        ):
            measured = MEASURES[what](model, sites, batches, objective_of(parts, accelerator))
    finally:
        model.to(home)
    for name, found in measured.items():
        if not all(tensor.isfinite().all() for tensor in found.values()):
            raise RunError(f"{whose} needs finite numbers of training data, and got others", where=name)
    return {name: {key: tensor.to(home) for key, tensor in found.items()} for name, found in measured.items()}


def measure_covariance(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], objective: Objective
) -> dict[str, dict[str, torch.Tensor]]:
    """Means of x x^T and of x over the sites' inputs."""
    return input_means(model, sites, batches, objective.logits)


def measure_gradients(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], objective: Objective
) -> dict[str, dict[str, torch.Tensor]]:
    """dL/dW (out x in) of the loss averaged over all rows, in float32; zeros for a weight that the loss does not depend on."""
    found = weight_gradients(model, sites, batches, objective.summed)
    return {name: {"gradient": gradient} for name, gradient in found.items()}


def measure_fisher(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], objective: Objective
) -> dict[str, dict[str, torch.Tensor]]:
    """Mean of (dL/dW)^2 (out x in) over rows, in float32; zeros for a weight that the loss does not depend on."""
    found = squared_gradients(model, sites, batches, lambda each, row: [(1.0, objective.summed(each, row))])
    return {name: {"fisher": squares} for name, squares in found.items()}


Measure = Callable[[nn.Module, Sequence[Site], Sequence[Batch], Objective], dict[str, dict[str, torch.Tensor]]]
MEASURES: Mapping[str, Measure] = {
    "covariance": measure_covariance,
    "gradient": measure_gradients,
    "fisher": measure_fisher,
}
"""What an init needs -> what measures it."""
