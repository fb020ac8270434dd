"""``lorakit search --method glora``: a line for each generation, then what was found, by role of the sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import lorakit
from lorakit.cli.command import answer
from lorakit.cli.output import next_line, say, write
from lorakit.reporting.tables import Column, count, duration, facts, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.recipe.load import LoadedRecipe
    from lorakit.workflow.glora.configurations import FoundSite
    from lorakit.workflow.glora.evolve import EvolutionResult, Progress


def evolve(
    loaded: LoadedRecipe,
    run_dir: Path | None,
    *,
    resume: bool,
    emit: Path | None,
    keep: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Search, show every generation, print the result."""
    say(
        f"training a supernet of {loaded.recipe.model.name} on {loaded.recipe.task.name}, then evolving its configuration"
    )
    from lorakit.cli.progress import ProgressHook

    with ProgressHook(quiet=quiet) as progress:
        result = lorakit.evolve(
            loaded,
            run_dir=run_dir,
            resume=resume,
            emit=emit,
            keep=keep,
            hooks=[progress],
            watch=lambda generation: say(generation_line(generation)),
        )
    answer(result, partial(tell, offline=loaded.recipe.run.offline), as_json=as_json)


def generation_line(progress: Progress) -> str:
    """``generation 3/20: best 0.8123 with 12,345 parameters, mean 0.7711 of 50; so far 0.8200 with 9,876``."""
    best, so_far = progress.best, progress.best_so_far
    return (
        f"generation {progress.generation}/{progress.of}: best {best.fitness:.4f} with {best.parameters:,} parameters, "
        f"mean {progress.mean:.4f} of {progress.tried}; so far {so_far.fitness:.4f} with {so_far.parameters:,}"
    )


def tell(result: EvolutionResult, *, offline: bool) -> None:
    """Write what the search found and came to, and say what can be done next."""
    write(choice_table(result), best_table(result), facts(outcome(result)))
    recipe = result.emitted or result.found / "recipe.yaml"
    evaluation = ["eval", result.task, "--run", result.found, *(["--offline"] if offline else [])]
    say("\n  ".join(["next:", next_line("train", recipe), next_line(*evaluation)]))


def choice_table(result: EvolutionResult) -> Table:
    """How often each choice was taken at the sites of each role."""
    sites: dict[str, list[FoundSite]] = {}
    for site in result.sites:
        sites.setdefault(site.role, []).append(site)

    def column(letter: str) -> Column:
        return Column(letter, lambda role: tally(site.configuration.get(letter, "") for site in sites[role]))

    columns = [
        Column("role", str),
        Column("sites", lambda role: len(sites[role]), right=True),
        *(column(letter) for letter in "ABCDE"),
        Column("parameters", lambda role: count(sum(site.parameters for site in sites[role])), right=True),
    ]
    return table(sites, columns, title="the best configuration, by role: how many sites take which choice")


def best_table(result: EvolutionResult) -> Table:
    """The best configurations, numbered, with their parameters."""
    columns = [
        Column("", lambda row: row[0], right=True),
        Column(result.metric, lambda row: f"{row[1][0]:.4f}", right=True),
        Column("parameters", lambda row: count(row[1][1]), right=True),
    ]
    return table(enumerate(result.best, start=1), columns, title="best on held-out rows")


def outcome(result: EvolutionResult) -> list[tuple[str, str]]:
    """What the search came to, as (name, value) pairs."""
    limit = "" if result.highest is None else f", at most {count(result.highest)}"
    pairs = [
        (
            f"found, {result.metric}",
            f"{result.fitness:.4f} on {count(result.held_out)} rows held out of the training rows",
        ),
        ("everything on", f"{result.whole:.4f} on the same rows"),
        ("parameters", f"{count(result.parameters)} in adapters{limit}"),
        ("generations", f"{result.generations}, {count(result.tried)} configurations"),
        ("time", f"{duration(result.supernet_seconds)} for the supernet, {duration(result.seconds)} for the evolution"),
        ("folder", str(result.folder)),
    ]
    if result.emitted is not None:
        pairs.append(("recipe", str(result.emitted)))
    return pairs


def tally(choices: Iterable[str]) -> str:
    """``lora 3, none 1``: how often each was chosen, the most frequent first."""
    counts = Counter(choice for choice in choices if choice)
    return ", ".join(f"{choice} {times}" for choice, times in counts.most_common())
