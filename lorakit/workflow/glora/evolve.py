"""``lorakit search --method glora``: train a supernet of all configurations, then evolve the best one (Chavan et al. 2023).

    FOLDER/recipe.yaml         what was asked for
    FOLDER/supernet/           a run: trained on the training rows but for a held-out part, a random configuration at each step
    FOLDER/generations.jsonl   every configuration that was scored on the held-out rows, a generation a line
    FOLDER/found/              the best one with the supernet's weights, cut to what it uses: a run for eval, merge and predict
    FOLDER/search.json         what the search came to

Only training rows are ever looked at: neither the supernet nor a configuration is scored on the task's validation or test splits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.adapters.budget import resolve_budget
from lorakit.adapters.counting import count_parameters
from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.glora import NONE, GLoRA, choices_on
from lorakit.adapters.method import resolve
from lorakit.artifacts.files import append_json, read_jsonl, write_json, write_jsonl, write_text
from lorakit.artifacts.run import Run
from lorakit.artifacts.warm_start import start_from
from lorakit.backbone.site import Site
from lorakit.errors import Interrupted, Problem, RecipeError, UsageError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.rules import BUDGETS
from lorakit.searching.evolution import Candidate, Evolution, Gene, Rules, Scored
from lorakit.tasks.metrics import main_metric
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import higher_is_better
from lorakit.training.hooks import Hook
from lorakit.training.interrupt import listening
from lorakit.training.loop import asked_to_stop
from lorakit.training.seeds import derive_seed
from lorakit.workflow.glora.supernet import (
    Supernet,
    found_recipe,
    load_supernet,
    save_found,
    supernet_recipe,
    train_supernet,
    without_validation,
)
from lorakit.workflow.setup import Parts, Result, adapt, assemble, located, make_accelerator, talk, this_process
from lorakit.workflow.train import changed_keys, choose_run

GENERATIONS, RESULT, SUPERNET, FOUND = "generations.jsonl", "search.json", "supernet", "found"
BEST = 5  # of all configurations, told in the result


@dataclass(frozen=True)
class FoundSite(Result):
    """A site with the configuration that was found for it."""

    name: str
    label: str
    role: str
    layer: int
    rank: int
    parameters: int
    configuration: dict[str, str]


@dataclass(frozen=True)
class Progress:
    """A generation that has just been scored: how many were, their mean, their best, and the best of all so far."""

    generation: int
    of: int
    tried: int
    mean: float
    best: Scored
    best_so_far: Scored
    metric: str


@dataclass(frozen=True)
class EvolutionResult(Result):
    """The best configuration, and how it was found.

    fitness: its ``metric`` on the ``held_out`` rows; whole: that of the recipe's own configuration, everything on by default;
    parameters: of all adapters; lowest and highest: what the recipe allows (None: no limit); best: the best few as (fitness,
    parameters); supernet_seconds: of its training; seconds: of the evolution in this process.
    """

    folder: Path
    found: Path
    task: str
    metric: str
    fitness: float
    whole: float
    parameters: int
    lowest: int
    highest: int | None
    held_out: int
    generations: int
    tried: int
    best: list[tuple[float, int]]
    sites: list[FoundSite]
    supernet_seconds: float
    seconds: float
    emitted: Path | None


def evolve(
    loaded: LoadedRecipe,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    emit: Path | None = None,
    keep: bool = False,
    hooks: Sequence[Hook] = (),
    watch: Callable[[Progress], None] = lambda progress: None,
) -> EvolutionResult:
    """Train the supernet, evolve a configuration, and write the recipe that trains it to ``emit``.

    keep: that recipe starts from the supernet's weights, not from scratch; hooks: for the supernet's training; watch: called after
    every generation. Raises Interrupted after a polite stop; ``resume`` then goes on, and ends as if nothing had happened.
    """
    recipe, process = loaded.recipe, this_process()
    with located(loaded):
        check(loaded)
        run = choose_folder(loaded, run_dir, resume)
        data = load_task(recipe.task, seed=derive_seed(recipe.run.seed, "data"), offline=recipe.run.offline)
        rows = without_validation(data, recipe.search.holdout, recipe.run.seed)
        parts = assemble(supernet_recipe(loaded), rows)
        evolution = begin(loaded, parts)
        if (
            recipe.adapter.start and not resume
        ):  # the supernet's training starts from it: refused before anything is written
            start_from(adapt(parts, statistics=None), Path(recipe.adapter.start))
    process.wait_for_everyone()
    if not resume and process.is_main_process:
        run.start(loaded.to_yaml(), data.task)
    again = how_to_go_on(run, emit, keep)
    trained = train_supernet(loaded, run.path / SUPERNET, rows, hooks, again)
    supernet = load_supernet(loaded, run.path / SUPERNET, rows)
    started = time.perf_counter()
    whole = supernet.fitness(None)
    advance(evolution, recipe.search.generations, supernet, run, watch, again)
    ranked = evolution.ranked()
    chosen = configuration_of(evolution, ranked[0].candidate)
    if process.is_main_process:
        save_found(loaded, supernet, chosen, data, run.path / FOUND)
        if emit is not None:
            write_text(emit, found_recipe(loaded, chosen, run.path / FOUND if keep else None).to_yaml())
    result = EvolutionResult(
        folder=run.path,
        found=run.path / FOUND,
        task=data.task.name,
        metric=supernet.metric,
        fitness=ranked[0].fitness,
        whole=whole,
        parameters=ranked[0].parameters,
        lowest=recipe.search.min_parameters,
        highest=evolution.rules.highest,
        held_out=len(rows.splits[rows.task.validation[0]]),
        generations=len(evolution.generations),
        tried=len(ranked),
        best=[(scored.fitness, scored.parameters) for scored in ranked[:BEST]],
        sites=[
            found_site(supernet.parts, site, chosen[site.name]) for site in supernet.parts.sites if site.name in chosen
        ],
        supernet_seconds=trained,
        seconds=time.perf_counter() - started,
        emitted=emit,
    )
    if process.is_main_process:
        write_json(run.path / RESULT, result.to_dict())
    return result


def check(loaded: LoadedRecipe) -> None:
    """Refuse a recipe whose adapters have no configurations to search, or have been given theirs."""
    adapter, problems = loaded.recipe.adapter, []
    delta = resolve(adapter).delta
    if deltas.get(delta) is not GLoRA:
        what = f"the search is for configurations of GLoRA, and the adapters are of delta '{delta}'"
        problems.append(Problem(what, key="adapter.method", valid="glora", hint="adapter.method=glora"))
    if adapter.site_options:
        what, hint = "gives what a search is to find", "the recipe that this one was made from"
        problems.append(Problem(what, key="adapter.site_options", valid="no site_options", hint=hint))
    if problems:
        raise RecipeError(problems)


def choose_folder(loaded: LoadedRecipe, run_dir: Path | None, resume: bool) -> Run:
    """The folder to search in: the named one, or ``NAME-glora-SEED``. UsageError where there is nothing to go on with."""
    name = f"{loaded.recipe.run.name or loaded.name}-glora"
    named = replace(loaded, recipe=replace(loaded.recipe, run=replace(loaded.recipe.run, name=name)))
    run = choose_run(named, run_dir, resume)
    if resume and (run.path / RESULT).exists():
        raise UsageError(
            "this search was done to its end already", where=str(run.path), hint="a new one, without --resume"
        )
    if resume and (changed := changed_keys(loaded, run)):
        what = f"the recipe has changed since this search began: {', '.join(changed)}"
        raise UsageError(what, where=str(run.path), hint=f"{how_to_go_on(run)} goes on with the search's own recipe")
    return run


def how_to_go_on(run: Run, emit: Path | None = None, keep: bool = False) -> str:
    """The command that continues the search in this folder, and still writes what was wanted."""
    return f"lorakit search {run.path} --resume" + (f" --emit {emit}" if emit else "") + (" --keep-weights" * keep)


def begin(loaded: LoadedRecipe, parts: Parts) -> Evolution:
    """An evolution of the sites' configurations within the recipe's limits. RecipeError for limits that none keeps."""
    search, costs = loaded.recipe.search, parts.costs
    given = [key for key in BUDGETS if getattr(search, key.partition(".")[2]) is not None]
    budget = resolve_budget(search, parts.sites, parts.linear, parts.shortcut).parameters if given else None
    rules = Rules(
        population=search.population,
        parents=search.parents,
        mutation=search.mutation,
        fixed=sum(costs[site.name] for site in parts.sites if site.is_shortcut),
        lowest=search.min_parameters,
        highest=budget,
        maximise=higher_is_better(main_metric(parts.task)),
    )
    genes = [gene for site in parts.sites if not site.is_shortcut for gene in genes_of(parts, site)]
    evolution = Evolution(
        genes, rules, lambda number: derive_seed(loaded.recipe.run.seed, f"search/generation {number}")
    )
    fewest, most = max(rules.fixed, rules.lowest), evolution.most()
    if fewest > most or (budget is not None and budget < fewest):
        raise RecipeError(
            "no configuration has parameters within the limits",
            key=given[0] if given and fewest <= most else "search.min_parameters",
            valid=f"limits within {rules.fixed:,} to {most:,}",
        )
    return evolution


def genes_of(parts: Parts, site: Site) -> list[Gene]:
    """What is to be chosen on ``site``, and what each choice trains."""
    nothing = dict.fromkeys(choices_on(site), NONE) | {"mode": "fixed"}
    rank = parts.rank_of(site)
    return [
        Gene(
            f"{site.name}/{letter}",
            {
                choice: count_parameters(parts.linear.with_options({**nothing, letter: choice}), site, rank)
                for choice in choices
            },
        )
        for letter, choices in choices_on(site).items()
    ]


def configuration_of(evolution: Evolution, candidate: Candidate) -> dict[str, dict[str, str]]:
    """Site -> letter -> choice, of a candidate."""
    found: dict[str, dict[str, str]] = {}
    for gene, choice in zip(evolution.genes, candidate, strict=True):
        site, _, letter = gene.name.rpartition("/")
        found.setdefault(site, {})[letter] = choice
    return found


def advance(
    evolution: Evolution,
    generations: int,
    supernet: Supernet,
    run: Run,
    watch: Callable[[Progress], None],
    again: str,
) -> None:
    """Evolve to the last generation from where the folder's records end. A generation is on disk before the next begins.

    again: the command that goes on after a stop.
    """
    path, accelerator = run.path / GENERATIONS, make_accelerator(supernet.parts.recipe)
    for record in read_jsonl(path):
        evolution.record({tuple(each["choices"].split()): each["fitness"] for each in record["candidates"]})
    if accelerator.is_main_process:  # a line that was cut short is gone from here on
        write_jsonl(path, [generation_record(evolution, number) for number in range(len(evolution.generations))])
    with listening() as stop:
        while (number := len(evolution.generations)) < generations:
            fitness: dict[Candidate, float] = {}
            for candidate in evolution.propose():
                fitness[candidate] = supernet.fitness(configuration_of(evolution, candidate))
                if asked_to_stop(accelerator, stop):
                    what = f"stopped in generation {number + 1} of {generations}; those before it are kept"
                    raise Interrupted(what, hint=again)
            if not fitness:
                talk.info("there is no configuration within the limits that was not tried")
                break
            evolution.record(fitness)
            if accelerator.is_main_process:
                append_json(path, generation_record(evolution, number))
            best, so_far = evolution.ranked(evolution.generations[-1])[0], evolution.ranked()[0]
            mean = evolution.mean(number)
            watch(Progress(number + 1, generations, len(fitness), mean, best, so_far, supernet.metric))


def generation_record(evolution: Evolution, number: int) -> dict[str, Any]:
    """A line of generations.jsonl: choices are in the order of sites, and of the letters of each."""
    scored = evolution.generations[number]
    return {
        "generation": number,
        "best": evolution.ranked(scored)[0].fitness,
        "mean": evolution.mean(number),
        "candidates": [
            {"fitness": each.fitness, "parameters": each.parameters, "choices": " ".join(each.candidate)}
            for each in scored
        ],
    }


def found_site(parts: Parts, site: Site, chosen: dict[str, str]) -> FoundSite:
    """The site as it was found."""
    rank = parts.rank_of(site)
    parameters = count_parameters(parts.linear.with_options({**chosen, "mode": "fixed"}), site, rank)
    return FoundSite(site.name, site.label, site.role, site.layer, rank, parameters, chosen)
