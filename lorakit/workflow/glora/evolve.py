"""``lorakit search --method glora``: train a supernet of all configurations, then evolve the best one (Chavan et al. 2023).

    FOLDER/recipe.yaml         what was asked for
    FOLDER/supernet/           a run: trained on the training rows but for a held-out part, a random configuration at each step
    FOLDER/generations.jsonl   every configuration that was scored on the held-out rows, a generation a line
    FOLDER/found/              the best one with the supernet's weights, cut to what it uses: a run for eval, merge and predict
    FOLDER/search.json         what the search came to

Only training rows are ever looked at: neither the supernet nor a configuration is scored on the task's validation or test splits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.files import append_json, read_jsonl, write_json, write_jsonl, write_text
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import GENERATIONS
from lorakit.errors import Interrupted, UsageError, command_line
from lorakit.recipe.load import AnyRecipe, LoadedRecipe, load_recipe
from lorakit.result import Result
from lorakit.searching.allocator import allocators
from lorakit.training.hooks import Hook
from lorakit.training.interrupt import listening
from lorakit.training.loop import asked_to_stop
from lorakit.workflow.accelerator import make_accelerator, this_process
from lorakit.workflow.glora.configurations import (
    FoundSite,
    check_searchable,
    configuration_of,
    describe_site,
    start_evolution,
)
from lorakit.workflow.glora.evolution import Candidate, Evolution, Scored
from lorakit.workflow.glora.supernet import (
    Supernet,
    found_recipe,
    load_supernet,
    save_found,
    searched_on,
    supernet_recipe,
    train_supernet,
)
from lorakit.workflow.parts import load_data
from lorakit.workflow.resume import choose_run
from lorakit.workflow.setup import adapt, assemble, warm_start
from lorakit.workflow.unfinished import changed_keys

logger = logging.getLogger(__name__)

RESULT, SUPERNET, FOUND = "search.json", "supernet", "found"
BEST = 5  # of all configurations, told in the result


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

    Attributes:
        folder: the search's folder.
        found: inside it, a run of the best configuration with the supernet's weights.
        task: the task's name.
        metric: the score that was searched by.
        fitness: that of the best configuration, on the held-out rows.
        whole: that of the recipe's own configuration there, everything on by default.
        parameters: of all adapters of the best one.
        lowest: the fewest that the recipe allows.
        highest: the most; None without a limit.
        held_out: training rows that were held out to score on.
        generations: that were evolved.
        tried: configurations that were scored.
        best: the best few, as (fitness, parameters).
        sites: the best configuration, site by site.
        supernet_seconds: of the supernet's training.
        seconds: of the evolution, in this process.
        emitted: the recipe that was written, None where none was asked for.
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
    recipe: AnyRecipe,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    emit: str | Path | None = None,
    keep: bool = False,
    hooks: Sequence[Hook] = (),
    watch: Callable[[Progress], None] | None = None,
) -> EvolutionResult:
    """Search a configuration for every site of a GLoRA recipe: train a supernet of all of them, then evolve the best.

    Only training rows are looked at: some of them are held out, to score configurations on.

    Args:
        recipe: the name of a shipped recipe, a YAML file, the folder of such a search, or a recipe that is loaded.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        run_dir: the search's folder; the one that ``recipe`` names, else ``runs/NAME-glora-SEED`` by default.
        resume: go on with the search in that folder. It then ends as if it had never been stopped.
        emit: a file to write: the recipe that trains the best configuration.
        keep: that recipe starts from the supernet's weights, and not from scratch.
        hooks: for the supernet's training.
        watch: called after every generation.

    Returns:
        The best configuration, and how it was found.

    Raises:
        RecipeError: for a wrong recipe, one without configurations to search, or limits that none of them keeps.
        UsageError: for a folder that holds something else, and for a search that cannot be resumed with this recipe.
        DataError: for data that cannot be used.
        RunError: where the supernet's training diverged.
        Interrupted: after a polite stop; the same call with ``resume=True`` goes on.

    Example:
        >>> glora = ["adapter.method=glora", "adapter.shortcuts=[]", "search.method=glora"]
        >>> found = lorakit.evolve("demo", glora, emit="found.yaml")           # doctest: +SKIP
        >>> found.found                                                        # doctest: +SKIP
        PosixPath('runs/demo-glora-0/found')
    """
    loaded, process = load_recipe(recipe, overrides), this_process()
    emit = None if emit is None else Path(emit)
    section = loaded.recipe
    with loaded.locating_errors():
        check_searchable(loaded)
        settings = allocators.get(section.search.method).settings_from(section.search.options)
        run = choose_folder(loaded, run_dir, resume)
        data = load_data(section)
        rows = searched_on(data, settings["holdout"], section.run.seed)
        parts = assemble(supernet_recipe(loaded), rows)
        evolution = start_evolution(loaded, parts, settings)
        if section.adapter.start and not resume:  # the supernet starts from it: refused before anything is written
            warm_start(section, adapt(parts, statistics=None))
    process.wait_for_everyone()
    if not resume and process.is_main_process:
        run.start(loaded.to_yaml(), data.task)
    again = command_to_resume(run, emit, keep)
    trained = train_supernet(loaded, run.path / SUPERNET, rows, hooks, again)
    supernet = load_supernet(loaded, run.path / SUPERNET, rows)
    started = time.perf_counter()
    whole = supernet.fitness(None)
    advance(evolution, settings["generations"], supernet, run, watch, again)
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
        lowest=settings["min_parameters"],
        highest=evolution.rules.highest,
        held_out=len(rows.splits[rows.task.validation[0]]),
        generations=len(evolution.generations),
        tried=len(ranked),
        best=[(scored.fitness, scored.parameters) for scored in ranked[:BEST]],
        sites=[
            describe_site(supernet.parts, site, chosen[site.name])
            for site in supernet.parts.sites
            if site.name in chosen
        ],
        supernet_seconds=trained,
        seconds=time.perf_counter() - started,
        emitted=emit,
    )
    if process.is_main_process:
        write_json(run.path / RESULT, result.to_dict())
    return result


def choose_folder(loaded: LoadedRecipe, run_dir: str | Path | None, resume: bool) -> Run:
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
        raise UsageError(
            what, where=str(run.path), hint=f"{command_to_resume(run)} goes on with the search's own recipe"
        )
    return run


def command_to_resume(run: Run, emit: Path | None = None, keep: bool = False) -> str:
    """The command that continues the search in this folder, and still writes what was wanted."""
    words = ("search", run.path, "--resume", *(("--emit", emit) if emit else ()), *(["--keep-weights"] * keep))
    return command_line(*words)


@FaultPoint("evolution")
def advance(
    evolution: Evolution,
    generations: int,
    supernet: Supernet,
    run: Run,
    watch: Callable[[Progress], None] | None,
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
                logger.info("there is no configuration within the limits that was not tried")
                break
            evolution.record(fitness)
            if accelerator.is_main_process:
                record = generation_record(evolution, number)
                with FaultPoint("half a generation", path, record):
                    append_json(path, record)
            if watch is not None:
                watch(newest_progress(evolution, generations, supernet.metric))


def newest_progress(evolution: Evolution, of: int, metric: str) -> Progress:
    """What the newest of ``of`` generations came to."""
    number, newest = len(evolution.generations), evolution.generations[-1]
    best, best_so_far = evolution.ranked(newest)[0], evolution.ranked()[0]
    return Progress(number, of, len(newest), evolution.mean(number - 1), best, best_so_far, metric)


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
