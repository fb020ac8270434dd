"""``lorakit combine``: several runs on one backbone become one run with a plain LoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scipy.optimize import differential_evolution

from lorakit import registry
from lorakit.adapters.adapter import DROPPED
from lorakit.adapters.attach import AdaptedModel
from lorakit.artifacts.adapter_file import site_states
from lorakit.artifacts.combination import Combination, Factors, Setting, Update, nothing_at, truncated, update_of
from lorakit.artifacts.merge import fold
from lorakit.artifacts.peft_translation import placed
from lorakit.artifacts.run import Run, new_run, open_run
from lorakit.backbone.site import Site
from lorakit.errors import LorakitError, RunError, UsageError
from lorakit.recipe.load import load_recipe, with_usual
from lorakit.recipe.schema import SearchSection
from lorakit.tasks.batching import Batch, encode
from lorakit.tasks.task import Task
from lorakit.training.objective import Objective
from lorakit.training.seeds import generator, stream
from lorakit.workflow.building import Result, adapt, assemble, make_accelerator, talk
from lorakit.workflow.calibrating import moments
from lorakit.workflow.importing import write_run
from lorakit.workflow.restoring import RestoredRun, restore_run

Tensors = dict[str, torch.Tensor]
LARGEST_WEIGHT, PENALTY = 1.5, 0.05  # LoRAHub's bounds, and its L1 penalty
GENERATIONS, POPULATION = 10, 5
BATCH = 16


@dataclass(frozen=True)
class CombineResult(Result):
    """The new run, and what went into it.

    ranks: (lowest, highest); error: how far the result is from the combined updates, as a share of their Frobenius norm, because of its
    rank; head: whose it is; rows: training rows looked at in each run.
    """

    out: Path
    method: str
    runs: list[str]
    weights: list[float]
    task: str
    sites: int
    ranks: tuple[int, int]
    error: float
    head: str
    rows: int
    adapter_parameters: int


@dataclass
class Member:
    """One run: its site updates, its head, its task."""

    path: Path
    task: Task
    updates: dict[str, Update]
    head: Tensors


def combine(
    runs: Sequence[Path],
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    rows: int = 64,
    seed: int = 0,
    out: Path | None = None,
    which: str = "last",
) -> CombineResult:
    """Combine the adapters of ``runs`` by ``method`` into a run that goes on with the first one's task.

    weights: one for each run, the method's own by default; rank: of the result; density: what ties and dare keep; rows: of each run's
    training data for a method that looks at data; seed: of what is drawn; which: the ``last`` or ``best`` weights. Raises UsageError or
    RunError for runs that do not go together, and then writes nothing.
    """
    way: Combination = registry.combinations.get(method)
    given = check_arguments(way, runs, weights, rank, density, rows)
    opened = [open_run(Path(run)) for run in runs]
    check_backbones(opened)
    states = [site_states(run.weights(which)) for run in opened]
    live = [[name for name, state in found.items() if state != DROPPED] for found in states]
    first = restore_run(opened[0].path, which)
    sites = chosen_sites(first, {name for names in live for name in names}, opened, live)
    members = []
    for number, run in enumerate(opened):
        restored = first if number == 0 else restore_run(run.path, which, with_data=way.needs != "nothing")
        members.append(member(restored, sites, way.needs, rows, seed))
    setting = Setting(given, density or way.density or 1.0, generator(seed, f"combine/{method}"))
    check_ranks(way, members, sites)
    ranks = {site.name: rank_of(way, [m.updates[site.name] for m in members], site, rank) for site in sites}
    section = placed(first.parts.backbone, sites, ranks, "lora")
    section.scale = "none"
    recipe = first.loaded.recipe
    name = out.resolve().name if out else f"{method}-{recipe.run.name}"
    target = Run(out) if out else new_run(Path(recipe.run.folder), name, seed)
    if target.path.exists():
        raise UsageError("is there already", where=str(target.path), hint="--out for another place")
    combined = replace(recipe, adapter=section, search=SearchSection(), run=replace(recipe.run, name=name))
    loaded = replace(first.loaded, recipe=with_usual(combined), name=name)
    parts = assemble(loaded, first.parts.data)
    adapted = adapt(parts, statistics=None)
    if way.learns:
        batches = training_batches(first, rows, seed)
        objective = Objective(make_accelerator(loaded.recipe), parts.task.regression)
        setting = replace(setting, weights=learnt(way, members, sites, adapted, objective, batches, seed))
    factors, error = combined_factors(way, members, sites, setting, ranks)
    head, whose = combined_head(members, setting.weights)
    fill(adapted, factors, head)
    write_run(
        target.path,
        loaded,
        parts.task,
        adapted,
        {
            "combined": [str(run.path) for run in opened],
            "method": method,
            "weights": list(setting.weights),
            "error": error,
        },
    )
    return CombineResult(
        out=target.path,
        method=method,
        runs=[str(run.path) for run in opened],
        weights=list(setting.weights),
        task=parts.task.name,
        sites=len(sites),
        ranks=(min(ranks.values()), max(ranks.values())),
        error=error,
        head=whose,
        rows=rows if way.learns or way.needs != "nothing" else 0,
        adapter_parameters=adapted.adapter_parameters(),
    )


# -- what may be combined ----------------------------------------------------------------------------------------------


def check_arguments(
    way: Combination,
    runs: Sequence[Path],
    weights: Sequence[float] | None,
    rank: int | None,
    density: float | None,
    rows: int,
) -> list[float]:
    """The weights. UsageError for numbers that make no sense."""
    if len(runs) < 2:
        raise UsageError("there is nothing to combine", valid="two runs or more")
    if weights is not None and way.learns:
        raise UsageError(f"{way.name} learns its weights: none can be given", hint="--method linear takes weights")
    if weights is not None and len(weights) != len(runs):
        raise UsageError(f"there are {len(weights)} weights for {len(runs)} runs", valid="one for each run")
    if weights is not None and not (all(map(math.isfinite, weights)) and any(weights)):
        raise UsageError("weights must be finite numbers, and not all zero")
    if weights is not None and way.needs != "nothing" and min(weights) <= 0:
        raise UsageError(f"{way.name} is a mean: its weights are above zero")
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} cannot be had", valid="1 or more")
    if density is not None and way.density is None:
        raise UsageError(f"{way.name} keeps every entry: it has no density", hint="--method ties or dare")
    if density is not None and not 0 < density <= 1:
        raise UsageError(f"a density of {density:g} cannot be had", valid="above 0, at most 1")
    if rows < 1:
        raise UsageError(f"{rows} rows cannot be looked at", valid="1 or more")
    return list(weights) if weights is not None else [way.weight or 1 / len(runs)] * len(runs)


def chosen_sites(first: RestoredRun, names: set[str], runs: Sequence[Run], live: Sequence[Sequence[str]]) -> list[Site]:
    """The sites that any of the runs adapts, in model order. RunError where one is not a projection of the model."""
    known = {site.name: site for site in first.parts.backbone.anatomy.sites}
    for run, own in zip(runs, live, strict=True):
        if foreign := [name for name in own if name not in known]:
            raise RunError(
                f"{foreign[0]} cannot be combined: only adapters on the model's projections can",
                where=str(run.path),
                hint="a run without shortcuts, and with a method that updates weights",
            )
    if not names:
        raise RunError("none of the runs has an adapter in its function")
    return [site for name, site in known.items() if name in names]


def check_backbones(runs: Sequence[Run]) -> None:
    """Updates are of one pretrained weight."""
    first, *others = [(run, load_recipe(run.recipe).recipe.model) for run in runs]
    for run, model in others:
        if (model.name, model.revision) != (first[1].name, first[1].revision):
            raise UsageError(
                f"this run is on {model.name}, and {first[0].path} on {first[1].name}",
                where=str(run.path),
                valid="runs on one backbone",
            )


def check_ranks(way: Combination, members: Sequence[Member], sites: Sequence[Site]) -> None:
    """A method that works on factors needs them, and one that sums them needs the same rank everywhere."""
    if not way.factors:
        return
    for site in sites:
        for each in members:
            if each.updates[site.name].factors is None:
                raise RunError(
                    f"{site.name} is not of low rank: {way.name} works on factors B A",
                    where=str(each.path),
                    hint="--method linear or svd",
                )
        found = {each.updates[site.name].rank for each in members} - {0}
        if way.learns and len(found) > 1:
            raise RunError(
                f"{site.name} has ranks {', '.join(map(str, sorted(found)))}: {way.name} sums factors of one rank",
                hint="--method linear or svd",
            )


def rank_of(way: Combination, updates: Sequence[Update], site: Site, asked: int | None) -> int:
    """The rank of the result at a site: what was asked for, or the sum or largest of the adapters', as far as the matrix goes."""
    own = [update.rank for update in updates]
    return min(asked or (sum(own) if way.rank == "sum" else max(own)), site.in_features, site.out_features)


# -- what is combined --------------------------------------------------------------------------------------------------


def member(restored: RestoredRun, sites: Sequence[Site], needs: str, rows: int, seed: int) -> Member:
    """Take the run's model apart: its updates in float64, with the statistic that the method needs."""
    adapted = restored.adapted
    state = adapted.state()
    head = {name: state[name].double().clone() for name in adapted.new_parts}
    statistics: Tensors = {}
    batches = training_batches(restored, rows, seed) if needs != "nothing" else []
    objective = Objective(make_accelerator(restored.parts.recipe), restored.parts.task.regression)
    if needs == "gram":
        objective.accelerator.prepare_model(adapted.model)
        statistics = {
            name: found["covariance"] for name, found in moments(adapted.model, sites, batches, objective).items()
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


def combined_factors(
    way: Combination, members: Sequence[Member], sites: Sequence[Site], setting: Setting, ranks: Mapping[str, int]
) -> tuple[dict[str, Factors], float]:
    """Site -> (b, a) of its rank, and how much of the combined updates the ranks lose."""
    factors, lost, whole = {}, 0.0, 0.0
    for site in sites:
        combined = way.combine([each.updates[site.name] for each in members], setting)
        factors[site.name], gone, norm = truncated(combined, ranks[site.name])
        lost, whole = lost + gone, whole + norm
    return factors, math.sqrt(lost / whole) if whole else 0.0


def combined_head(members: Sequence[Member], weights: Sequence[float]) -> tuple[Tensors, str]:
    """The mean of the heads where all tasks have the same labels, by the weights where these are shares; else the first run's."""
    first, *others = members
    alike = all(
        each.task.labels == first.task.labels
        and {name: tensor.shape for name, tensor in each.head.items()} == {n: t.shape for n, t in first.head.items()}
        for each in others
    )
    if not alike:
        talk.info("the runs' labels differ: the head is that of %s", first.path)
        return first.head, str(first.path)
    usable = min(weights) >= 0
    shares = [weight / sum(weights) if usable else 1 / len(weights) for weight in weights]
    mean = {
        name: torch.stack([share * each.head[name] for share, each in zip(shares, members, strict=True)]).sum(dim=0)
        for name in first.head
    }
    return mean, "the weighted mean of all" if usable else "the mean of all"


@torch.no_grad()
def fill(adapted: AdaptedModel, factors: Mapping[str, Factors], head: Mapping[str, torch.Tensor]) -> None:
    """Put the combined factors and head into the new model; factors of a lower rank than the site's leave zeros."""
    state = adapted.state()
    for name, (b, a) in factors.items():
        for key, value in ((f"{name}.B", b), (f"{name}.A", a)):
            state[key].zero_()
            state[key][: value.shape[0], : value.shape[1]].copy_(value)
    for name, tensor in head.items():
        state[name].copy_(tensor)


def learnt(
    way: Combination,
    members: Sequence[Member],
    sites: Sequence[Site],
    adapted: AdaptedModel,
    objective: Objective,
    batches: Sequence[Batch],
    seed: int,
) -> list[float]:
    """The weights with the smallest loss on the examples plus L1 penalty, found without gradients."""
    head, _ = combined_head(members, [1.0] * len(members))
    ranks = {site.name: adapted.adapters[site.name].rank for site in sites}
    objective.accelerator.prepare_model(adapted.model)
    adapted.model.eval()
    rows = sum(len(batch["labels"]) for batch in batches)

    @torch.no_grad()
    def loss(weights: Sequence[float]) -> float:
        factors, _ = combined_factors(way, members, sites, Setting([float(w) for w in weights]), ranks)
        fill(adapted, factors, head)
        total = sum(float(objective.summed(adapted.model, batch)) for batch in batches) / rows
        return total + PENALTY * sum(abs(float(weight)) for weight in weights) / len(members)

    found = differential_evolution(
        loss,
        bounds=[(-LARGEST_WEIGHT, LARGEST_WEIGHT)] * len(members),
        x0=[1 / len(members)] * len(members),
        maxiter=GENERATIONS,
        popsize=POPULATION,
        rng=stream(seed, "combine/weights"),
        polish=False,
    )
    talk.info("weights %s after %d losses", ", ".join(f"{w:.3f}" for w in found.x), found.nfev)
    return [float(weight) for weight in found.x]
