"""``lorakit combine``: several runs on one backbone become one run with a plain LoRA."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scipy.optimize import differential_evolution

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.options import read_settings
from lorakit.adapters.switching import DROPPED
from lorakit.artifacts.adapter_file import site_states
from lorakit.artifacts.combination import Combination, Factors, Setting, Update, combinations
from lorakit.artifacts.run import new_run
from lorakit.backbone.site import Site
from lorakit.errors import UsageError
from lorakit.recipe.overlays import as_list
from lorakit.result import Result
from lorakit.tasks.batching import Batch
from lorakit.training.objective import Objective
from lorakit.training.seeds import derive_seed, generator
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.combine.members import (
    Member,
    adapted_sites,
    check_backbones,
    check_functions,
    check_ranks,
    combine_factors,
    combine_heads,
    take_apart,
    training_batches,
)
from lorakit.workflow.import_peft import write_run
from lorakit.workflow.plain_lora import as_plain_lora
from lorakit.workflow.restore import open_trained, restore_run
from lorakit.workflow.same_data import combined, warn_of_seen
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.verify import check_target

logger = logging.getLogger(__name__)

LARGEST_WEIGHT, PENALTY = 1.5, 0.05  # LoRAHub's bounds, and its L1 penalty
GENERATIONS, POPULATION = 10, 5


@dataclass(frozen=True)
class CombineResult(Result):
    """The new run, and what went into it.

    Attributes:
        out: the new run's folder.
        method: how they were combined.
        runs: the folders that were combined.
        coefficients: of each of them, as used.
        task: the first run's, which is the new one's.
        sites: how many have an adapter.
        ranks: the lowest and the highest.
        error: what the ranks lose of the combined updates, as a share of their Frobenius norm.
        head: whose the task's head is.
        rows: training rows looked at in each run.
        adapter_parameters: of all adapters.
        seen: texts that the first run holds out and another one was trained on.
    """

    out: Path
    method: str
    runs: list[str]
    coefficients: list[float]
    task: str
    sites: int
    ranks: tuple[int, int]
    error: float
    head: str
    rows: int
    adapter_parameters: int
    seen: int


def combine(
    runs: Sequence[str | Path],
    *,
    method: str = "linear",
    coefficients: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    options: Mapping[str, str] | None = None,
    rows: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    weights: str | None = None,
) -> CombineResult:
    """Combine the adapters of several runs on one backbone into a run that goes on with the first one's task.

    Args:
        runs: two run folders or more.
        method: how (see `lorakit list combinations`).
        coefficients: one for each run; the method's own by default.
        rank: of the result; the sum of the runs', or for some methods the largest, by default.
        density: the share of entries that ties, dare and dare_ties keep.
        options: the method's own settings: fisher has labels and normalise.
        rows: of each run's training data, for a method that looks at data.
        seed: of what is drawn: the rows, and what dare drops.
        out: the new run's folder; METHOD-NAME-SEED beside the first run by default.
        weights: the ``last`` ones of each run, or the ``best`` on its validation split; those that its training.select says by default.

    Returns:
        The new run, and what went into it.

    Raises:
        UsageError: for arguments that make no sense, runs on other backbones, or where ``out`` exists.
        RunError: for runs that do not go together; then nothing is written.

    Example:
        >>> both = lorakit.combine(["runs/mrpc-lora-0", "runs/rte-lora-0"], method="ties")  # doctest: +SKIP
        >>> lorakit.evaluate(both.out).scores                                         # doctest: +SKIP
    """
    combination = combinations.get(method)
    runs = as_list(runs)
    given = check_arguments(combination, runs, coefficients, rank, density, rows)
    settings = read_settings(f"combination '{method}'", combination.options, options or {}, "--option")
    opened, chosen = zip(*(open_trained(run, weights) for run in runs), strict=True)
    if len({run.path.resolve() for run in opened}) < len(opened):
        logger.warning("a run is named more than once: it counts as often")
    check_backbones(opened)
    states = [site_states(run.weights(which)) for run, which in zip(opened, chosen, strict=True)]
    live = [[name for name, state in found.items() if state != DROPPED] for found in states]
    looks = combination.learns or combination.needs != "nothing"
    first = restore_run(opened[0].path, weights, with_data=looks)
    check_functions(opened, first.parts.backbone.model.config)
    sites = adapted_sites(first, opened, live)
    members = []
    for number, run in enumerate(opened):
        restored = first if number == 0 else restore_run(run.path, weights, with_data=combination.needs != "nothing")
        members.append(take_apart(restored, sites, combination.needs, settings, rows, seed, first.parts.task))
    setting = Setting(given, density or combination.density or 1.0, generator(seed, f"combine/{method}"))
    check_ranks(combination, members, sites)
    ranks = {site.name: rank_of(combination, [m.updates[site.name] for m in members], site, rank) for site in sites}
    name = Path(out).resolve().name if out else f"{method}-{first.loaded.recipe.run.name}"
    target = Path(out) if out else new_run(opened[0].path.parent, name, seed).path
    check_target(target)
    loaded = as_plain_lora(first, name, ranks)
    parts = assemble(loaded, first.parts.data)
    adapted = adapt(parts, statistics=None)
    if combination.learns:
        batches = training_batches(first, rows, seed)
        task = parts.task
        objective = put_on_device(
            adapted.model, loaded.recipe, regression=task.regression, multi_label=task.multi_label
        )
        learnt = learn_coefficients(combination, members, sites, adapted, objective, batches, seed)
        setting = replace(setting, weights=learnt)
    factors, error = combine_factors(combination, members, sites, setting, ranks)
    head, whose = combine_heads(members, setting.weights)
    fill(adapted, factors, head)
    provenance = combined(opened)
    seen = 0 if provenance is None else provenance.told["seen"]
    if provenance is not None:
        warn_of_seen(provenance, str(target))
    write_run(
        target,
        loaded,
        parts.task,
        adapted,
        {
            "combined": [str(run.path) for run in opened],
            "method": method,
            "weights": list(setting.weights),
            "options": settings,
            "error": error,
            "seen": seen,
        },
        provenance,
    )
    return CombineResult(
        out=target,
        method=method,
        runs=[str(run.path) for run in opened],
        coefficients=list(setting.weights),
        task=parts.task.name,
        sites=len(sites),
        ranks=(min(ranks.values()), max(ranks.values())),
        error=error,
        head=whose,
        rows=rows if looks else 0,
        adapter_parameters=adapted.adapter_parameters(),
        seen=seen,
    )


def check_arguments(
    combination: Combination,
    runs: Sequence[str | Path],
    coefficients: Sequence[float] | None,
    rank: int | None,
    density: float | None,
    rows: int,
) -> list[float]:
    """The coefficients. UsageError for numbers that make no sense."""
    if len(runs) < 2:
        raise UsageError("there is nothing to combine", valid="two runs or more")
    if coefficients is not None and combination.learns:
        raise UsageError(
            f"{combination.name} learns its coefficients: none can be given", hint="--method linear takes coefficients"
        )
    if coefficients is not None and len(coefficients) != len(runs):
        raise UsageError(f"there are {len(coefficients)} coefficients for {len(runs)} runs", valid="one for each run")
    if coefficients is not None and not (all(map(math.isfinite, coefficients)) and any(coefficients)):
        raise UsageError("coefficients must be finite numbers, and not all zero")
    if coefficients is not None and combination.needs != "nothing" and min(coefficients) <= 0:
        raise UsageError(f"{combination.name} is a mean: its coefficients must be above zero")
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} cannot be had", valid="1 or more")
    if density is not None and combination.density is None:
        raise UsageError(f"{combination.name} keeps every entry: it has no density", hint="--method ties or dare")
    if density is not None and not 0 < density <= 1:
        raise UsageError(f"a density of {density:g} cannot be had", valid="above 0, at most 1")
    if rows < 1:
        raise UsageError(f"{rows} rows cannot be looked at", valid="1 or more")
    return list(coefficients) if coefficients is not None else [combination.weight or 1 / len(runs)] * len(runs)


def rank_of(combination: Combination, updates: Sequence[Update], site: Site, asked: int | None) -> int:
    """The rank of the result at a site: what was asked for, or the sum or largest of the adapters', as far as the matrix goes."""
    own = [update.rank for update in updates]
    return min(asked or (sum(own) if combination.rank == "sum" else max(own)), site.in_features, site.out_features)


@torch.no_grad()
def fill(adapted: AdaptedModel, factors: Mapping[str, Factors], head: Mapping[str, torch.Tensor]) -> None:
    """Put the combined factors and head into the new model; factors of a lower rank than the site's leave zeros."""
    state = adapted.tensors()
    for name, (b, a) in factors.items():
        for key, value in ((f"{name}.B", b), (f"{name}.A", a)):
            state[key].zero_()
            state[key][: value.shape[0], : value.shape[1]].copy_(value)
    for name, tensor in head.items():
        state[name].copy_(tensor)


def learn_coefficients(
    combination: Combination,
    members: Sequence[Member],
    sites: Sequence[Site],
    adapted: AdaptedModel,
    objective: Objective,
    batches: Sequence[Batch],
    seed: int,
) -> list[float]:
    """The coefficients with the smallest loss on the examples plus L1 penalty, found without gradients."""
    head, _ = combine_heads(members, [1.0] * len(members))
    ranks = {site.name: adapted.adapters[site.name].rank for site in sites}
    adapted.model.eval()
    rows = sum(len(batch["labels"]) for batch in batches)

    @torch.no_grad()
    def loss(weights: Sequence[float]) -> float:
        factors, _ = combine_factors(combination, members, sites, Setting([float(w) for w in weights]), ranks)
        fill(adapted, factors, head)
        total = sum(float(objective.summed(adapted.model, batch)) for batch in batches) / rows
        return total + PENALTY * sum(abs(float(weight)) for weight in weights) / len(members)

    found = differential_evolution(
        loss,
        bounds=[(-LARGEST_WEIGHT, LARGEST_WEIGHT)] * len(members),
        x0=[1 / len(members)] * len(members),
        maxiter=GENERATIONS,
        popsize=POPULATION,
        rng=derive_seed(seed, "combine/weights"),
        polish=False,
    )
    logger.info("coefficients %s after %d losses", ", ".join(f"{w:.3f}" for w in found.x), found.nfev)
    return [float(weight) for weight in found.x]
