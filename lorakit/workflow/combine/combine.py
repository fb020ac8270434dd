"""``lorakit combine``: several runs on one backbone become one run with a plain LoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorakit.adapters.switching import DROPPED
from lorakit.artifacts.adapter_file import site_states
from lorakit.artifacts.combination import Combination, Setting, Update, combinations
from lorakit.artifacts.peft.translate import placed
from lorakit.artifacts.run import Run, new_run
from lorakit.backbone.site import Site
from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import load_recipe, with_usual
from lorakit.recipe.schema import SearchSection
from lorakit.training.objective import Objective
from lorakit.training.seeds import generator
from lorakit.workflow.combine.combined import combined_factors, combined_head, fill, learnt
from lorakit.workflow.combine.members import Member, member, training_batches
from lorakit.workflow.import_peft import write_run
from lorakit.workflow.restore import RestoredRun, open_trained, restore_run
from lorakit.workflow.setup import Result, adapt, assemble, make_accelerator, talk


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
    way = combinations.get(method)
    given = check_arguments(way, runs, weights, rank, density, rows)
    opened = [open_trained(Path(run), which) for run in runs]
    if len({run.path.resolve() for run in opened}) < len(opened):
        talk.warning("a run is named more than once: it counts as often")
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
    target = Run(out) if out else new_run(opened[0].path.parent, name, seed)
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
