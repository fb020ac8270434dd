"""The runs that `lorakit combine` takes apart, site by site, and what their updates and heads come to together."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.options import Options
from lorakit.artifacts.base_function import positions_divided, weights_kept
from lorakit.artifacts.combination import Combination, Factors, Setting, Update, nothing_at, truncated, update_of
from lorakit.artifacts.correction import corrected
from lorakit.artifacts.merge import fold
from lorakit.artifacts.run import Run
from lorakit.backbone.head import output_names
from lorakit.backbone.rope_scaling import KEY as ROPE_SCALING
from lorakit.backbone.site import Site
from lorakit.errors import LorakitError, RunError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.searching.input_statistics import input_means
from lorakit.searching.weight_gradients import Terms, squared_gradients
from lorakit.tasks.batching import Batch
from lorakit.tasks.label_order import order_by_name
from lorakit.tasks.task import Task
from lorakit.training.losses import ClassLoss, LabelLoss
from lorakit.training.objective import Objective
from lorakit.training.seeds import generator
from lorakit.workflow.accelerator import make_accelerator
from lorakit.workflow.parts import encode_rows
from lorakit.workflow.restore import RestoredRun
from lorakit.workflow.same_data import check_same_data

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]
BATCH = 16


@dataclass
class Member:
    """One run: its site updates and its head; matched: whether that is for the first run's labels, in whose order its outputs are."""

    path: Path
    matched: bool
    updates: dict[str, Update]
    head: Tensors


def check_backbones(runs: Sequence[Run]) -> None:
    """Updates are of one pretrained weight and nothing else, under a head that reads the same of the same texts."""
    for run in filter(corrected, runs):
        what = "the adapters of this run hold what quantising lost, which is no update: several would count it several times"
        raise UsageError(what, where=str(run.path), hint="combine the runs that were quantised, then lorakit quantize")
    (first, own), *others = [(run.path, load_recipe(run.recipe).recipe) for run in runs]
    for path, other in others:
        for key, ours, theirs in (
            ("model", (own.model.name, own.model.revision), (other.model.name, other.model.revision)),
            ("model.readout", (own.model.readout,), (other.model.readout,)),
            ("task.long", (own.task.long, own.task.window_pooling), (other.task.long, other.task.window_pooling)),
        ):
            if theirs != ours:
                what = f"{key} of this run is {told(theirs)}, and of {first} {told(ours)}"
                raise UsageError(what, where=str(path), valid="runs on one backbone that read texts in one way")


def check_functions(runs: Sequence[Run], config: Any) -> None:
    """Refuse runs whose positions were divided otherwise, and say where weights were rounded otherwise; config: of their model."""
    (first, own), *others = [(run.path, load_recipe(run.recipe).recipe) for run in runs]
    for path, other in others:
        here, there = positions_divided(own, config), positions_divided(other, config)
        if here != there:
            what = f"the positions of this run are divided by {there:g}, and of {first} by {here:g} ({ROPE_SCALING})"
            raise UsageError(what, where=str(path), valid="runs on one backbone that read texts in one way")
        if (ours := weights_kept(own.model)) != (theirs := weights_kept(other.model)):
            logger.warning(
                "%s was trained over weights in %s, and the result is over those of %s, in %s: its update is not exact there",
                *(path, theirs, first, ours),
            )


def told(values: Sequence[str | None]) -> str:
    """Values with a word between them."""
    return " and ".join(filter(None, values))


def adapted_sites(first: RestoredRun, runs: Sequence[Run], live: Sequence[Sequence[str]]) -> list[Site]:
    """The sites that any of the runs adapts, in model order; live: those of each run. RunError where one is not a projection."""
    known = {site.name: site for site in first.parts.backbone.anatomy.sites}
    for run, own in zip(runs, live, strict=True):
        if foreign := [name for name in own if name not in known]:
            raise RunError(
                f"{foreign[0]} cannot be combined: only adapters on the model's projections can",
                where=str(run.path),
                hint="a run without shortcuts, and with a method that updates weights",
            )
    names = {name for own in live for name in own}
    if not names:
        raise RunError("none of the runs has an adapter in its function")
    return [site for name, site in known.items() if name in names]


def take_apart(
    restored: RestoredRun,
    sites: Sequence[Site],
    needs: str,
    settings: Options,
    rows: int,
    seed: int,
    task: Task,
) -> Member:
    """Take the run's model apart: its updates in float64, with the statistic that the method needs; task: the first run's."""
    adapted = restored.adapted
    head, matched = head_for(restored, task)
    statistics: Tensors = {}
    batches = training_batches(restored, rows, seed) if needs != "nothing" else []
    own, recipe = restored.parts.task, restored.parts.recipe
    loss = LabelLoss() if own.multi_label else ClassLoss()
    objective = Objective(make_accelerator(recipe), own.regression, loss, recipe.task.window_pooling)
    if needs == "gram":
        objective.accelerator.prepare_model(adapted.model)
        statistics = {
            name: found["covariance"]
            for name, found in input_means(adapted.model, sites, batches, objective.logits).items()
        }
        adapted.model.cpu()
    updates = updates_of(restored)
    if needs == "fisher":
        fold(adapted)
        objective.accelerator.prepare_model(adapted.model)
        statistics = squared_gradients(adapted.model, sites, batches, terms_of(objective, settings["labels"]))
        if settings["normalise"] == "l2":
            statistics = normalised(statistics)
    complete = {site.name: updates.get(site.name, nothing_at(site)) for site in sites}
    measured = {
        name: replace(update, statistic=statistics[name].double().cpu()) if statistics else update
        for name, update in complete.items()
    }
    return Member(restored.run.path, matched, measured, head)


def updates_of(restored: RestoredRun, wanted: str = "combined") -> dict[str, Update]:
    """Site -> the run's update there, of those in the function; its adapters are in float64 from then on. RunError where one is none."""
    adapted = restored.adapted
    for holder in (*adapted.adapters.values(), *adapted.shared.values()):
        holder.double()
    try:
        return {name: update_of(adapted.adapters[name], wanted) for name in adapted.in_function}
    except LorakitError as error:
        raise RunError(str(error), where=str(restored.run.path)) from None


def head_for(restored: RestoredRun, task: Task) -> tuple[Tensors, bool]:
    """The run's head with its outputs in the order of the task's labels, matched by name; and whether they are the same labels."""
    adapted, state = restored.adapted, restored.adapted.tensors()
    head = {name: state[name].double().clone() for name in adapted.new_parts}
    if restored.parts.task.multi_label != task.multi_label:
        return head, False
    order = order_by_name(restored.parts.task.labels, task.labels)
    if order is None or order == [*range(len(order))]:
        return head, order is not None
    outputs = output_names(adapted.backbone.model, adapted.new_parts)
    return head | {name: head[name][order] for name in outputs}, bool(outputs)


def training_batches(restored: RestoredRun, rows: int, seed: int) -> list[Batch]:
    """A seeded sample of the run's own training rows."""
    parts = restored.parts
    check_same_data(restored.run, parts.data, ["train"])
    split = parts.data.splits["train"]
    order = torch.randperm(len(split), generator=generator(seed, "combine/rows"))[:rows].tolist()
    encoded = encode_rows(split.select(order), parts.backbone, parts.cut, "train")
    return [encoded.collate(range(start, min(start + BATCH, len(encoded)))) for start in range(0, len(encoded), BATCH)]


def terms_of(objective: Objective, labels: str) -> Terms:
    """What a row's squared gradient is of: the loss of its own label, or ``expected`` over the model's labels."""
    if labels == "expected":
        return lambda model, row: likelihoods(model, row, objective)
    return lambda model, row: [(1.0, objective.summed(model, row))]


def likelihoods(model: torch.nn.Module, row: Batch, objective: Objective) -> Iterator[tuple[float, torch.Tensor]]:
    """(share, value) whose sum of share * gradient^2 is the expected squared gradient of a row's loss over the labels of the model.

    Of classes: log p and p of each. Of labels that come by themselves: each logit, whose loss has the gradient p - y times its own, and
    p (1 - p), the variance of y. Of a number: the prediction and 2, as y has the variance 1/2 where its likelihood falls with
    the squared error, and twice the difference is the gradient.
    """
    (logits,) = objective.logits(model, row)
    if objective.regression:
        yield 2.0, logits.squeeze(-1)
    elif objective.multi_label:
        for logit, p in zip(logits, logits.detach().sigmoid().tolist(), strict=True):
            yield p * (1 - p), logit
    else:
        for value in logits.log_softmax(dim=-1):
            yield float(value.detach().exp()), value


def normalised(statistics: Tensors) -> Tensors:
    """The same over the norm of all of them together."""
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in statistics.values()))
    return {name: value / norm for name, value in statistics.items()} if norm else statistics


def check_ranks(combination: Combination, members: Sequence[Member], sites: Sequence[Site]) -> None:
    """A method that works on factors needs them, and one that sums them needs the same rank everywhere."""
    if not combination.factors:
        return
    for site in sites:
        for each in members:
            if each.updates[site.name].factors is None:
                raise RunError(
                    f"{site.name} is not of low rank: {combination.name} works on factors B A",
                    where=str(each.path),
                    hint="--method linear or svd",
                )
        found = {each.updates[site.name].rank for each in members} - {0}
        if combination.learns and len(found) > 1:
            raise RunError(
                f"{site.name} has ranks {', '.join(map(str, sorted(found)))}: {combination.name} sums factors of one rank",
                hint="--method linear or svd",
            )


def combine_factors(
    combination: Combination,
    members: Sequence[Member],
    sites: Sequence[Site],
    setting: Setting,
    ranks: Mapping[str, int],
) -> tuple[dict[str, Factors], float]:
    """Site -> (b, a) of its rank, and how much of the combined updates the ranks lose."""
    factors, lost, whole = {}, 0.0, 0.0
    for site in sites:
        combined = combination.combine([each.updates[site.name] for each in members], setting)
        factors[site.name], gone, norm = truncated(combined, ranks[site.name])
        lost, whole = lost + gone, whole + norm
    return factors, math.sqrt(lost / whole) if whole else 0.0


def combine_heads(members: Sequence[Member], weights: Sequence[float]) -> tuple[Tensors, str]:
    """The mean of the heads where all are for the same labels, by the weights where these are shares; else the first run's."""
    first, *others = members
    alike = all(
        each.matched
        and {name: tensor.shape for name, tensor in each.head.items()} == {n: t.shape for n, t in first.head.items()}
        for each in others
    )
    if not alike:
        logger.info("the runs' labels differ: the head is that of %s", first.path)
        return first.head, str(first.path)
    usable = min(weights) >= 0
    shares = [weight / sum(weights) if usable else 1 / len(weights) for weight in weights]
    mean = {
        name: torch.stack([share * each.head[name] for share, each in zip(shares, members, strict=True)]).sum(dim=0)
        for name in first.head
    }
    return mean, "the weighted mean of all" if usable else "the mean of all"
