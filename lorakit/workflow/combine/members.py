"""A run taken apart for `lorakit combine`: its updates site by site, what a method wants to know of its training rows, and its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorakit.artifacts.combination import Update, nothing_at, update_of
from lorakit.artifacts.merge import fold
from lorakit.backbone.site import Site
from lorakit.errors import LorakitError, RunError
from lorakit.searching.input_statistics import moments
from lorakit.tasks.batching import Batch, encode
from lorakit.tasks.task import Task
from lorakit.training.objective import Objective
from lorakit.training.seeds import generator
from lorakit.workflow.restore import RestoredRun
from lorakit.workflow.setup import make_accelerator

Tensors = dict[str, torch.Tensor]
BATCH = 16


@dataclass
class Member:
    """One run: its site updates, its head, its task."""

    path: Path
    task: Task
    updates: dict[str, Update]
    head: Tensors


def member(restored: RestoredRun, sites: Sequence[Site], needs: str, rows: int, seed: int) -> Member:
    """Take the run's model apart: its updates in float64, with the statistic that the method needs."""
    adapted = restored.adapted
    state = adapted.tensors()
    head = {name: state[name].double().clone() for name in adapted.new_parts}
    statistics: Tensors = {}
    batches = training_batches(restored, rows, seed) if needs != "nothing" else []
    objective = Objective(make_accelerator(restored.parts.recipe), restored.parts.task.regression)
    if needs == "gram":
        objective.accelerator.prepare_model(adapted.model)
        statistics = {
            name: found["covariance"]
            for name, found in moments(adapted.model, sites, batches, objective.logits).items()
        }
        adapted.model.cpu()
    for holder in (*adapted.adapters.values(), *adapted.shared.values()):
        holder.double()
    try:
        updates = {name: update_of(adapted.adapters[name]) for name in adapted.in_function}
    except LorakitError as error:
        raise RunError(str(error), where=str(restored.run.path)) from None
    if needs == "fisher":
        fold(adapted)
        objective.accelerator.prepare_model(adapted.model)
        statistics = squared_gradients(adapted.model, sites, batches, objective)
    complete = {site.name: updates.get(site.name, nothing_at(site)) for site in sites}
    measured = {
        name: replace(update, statistic=statistics[name].double().cpu()) if statistics else update
        for name, update in complete.items()
    }
    return Member(restored.run.path, restored.parts.task, measured, head)


def training_batches(restored: RestoredRun, rows: int, seed: int) -> list[Batch]:
    """A seeded sample of the run's own training rows."""
    parts = restored.parts
    split = parts.data.splits["train"]
    order = torch.randperm(len(split), generator=generator(seed, "combine/rows"))[:rows].tolist()
    encoded = encode(split.select(order), parts.backbone.tokenizer, parts.max_length, "train")
    return [encoded.collate(range(start, min(start + BATCH, len(encoded)))) for start in range(0, len(encoded), BATCH)]


def squared_gradients(
    model: torch.nn.Module, sites: Sequence[Site], batches: Sequence[Batch], objective: Objective
) -> Tensors:
    """Mean over rows of (dL/dW)^2 (out x in), each row's gradient by itself."""
    weights = [model.get_submodule(site.name).get_parameter("weight").requires_grad_(True) for site in sites]
    totals = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    count = 0
    for batch in batches:
        for row in range(len(batch["labels"])):
            one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
            gradients = torch.autograd.grad(objective.summed(model, one), weights, allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total += gradient.float().square()
            count += 1
    return {
        site.name: (total.T if site.kind == "conv1d" else total) / count
        for site, total in zip(sites, totals, strict=True)
    }
