"""``lorakit search --method glora`` on the command line: a line a generation, then what was found, by kind of site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.recipe.load import LoadedRecipe
    from lorakit.workflow.glora.evolve import EvolutionResult, FoundSite, Progress


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
    from lorakit.cli.output import listening, say, write, write_json

    with listening(quiet=quiet):
        say(f"a supernet of {loaded.recipe.model.name} on {loaded.recipe.task.name}, then its evolution", quiet=quiet)
        import lorakit
        from lorakit.cli.progress import ProgressHook

        with ProgressHook(quiet=quiet) as progress:
            result = lorakit.evolve(
                loaded,
                run_dir=run_dir,
                resume=resume,
                emit=emit,
                keep=keep,
                hooks=[progress],
                watch=lambda generation: say(generation_line(generation), quiet=quiet),
            )
    if as_json:
        write_json(result.to_dict())
        return
    write(*found_tables(result))
    say(what_next(result, offline=loaded.recipe.run.offline), quiet=quiet)


def generation_line(progress: Progress) -> str:
    """``generation 3/20: best 0.8123 with 12,345 parameters, mean 0.7711 of 50; so far 0.8200 with 9,876``."""
    best, so_far = progress.best, progress.best_so_far
    return (
        f"generation {progress.generation}/{progress.of}: best {best.fitness:.4f} with {best.parameters:,} parameters, "
        f"mean {progress.mean:.4f} of {progress.tried}; so far {so_far.fitness:.4f} with {so_far.parameters:,}"
    )


def found_tables(result: EvolutionResult) -> tuple[Table, ...]:
    """How often each choice was taken on each kind of site, and what the search came to."""
    from lorakit.reporting.tables import Column, count, duration, facts, table

    kinds: dict[str, list[FoundSite]] = {}
    for site in result.sites:
        kinds.setdefault(site.role, []).append(site)

    def column(letter: str) -> Column:
        return Column(letter, lambda role: tally(site.configuration.get(letter, "") for site in kinds[role]))

    found = table(
        kinds,
        [
            Column("sites", str),
            Column("", lambda role: len(kinds[role]), right=True),
            *(column(letter) for letter in "ABCDE"),
            Column("parameters", lambda role: count(sum(site.parameters for site in kinds[role])), right=True),
        ],
        title="the best configuration, by kind of site",
    )
    best = table(
        enumerate(result.best, start=1),
        [
            Column("", lambda row: row[0], right=True),
            Column(result.metric, lambda row: f"{row[1][0]:.4f}", right=True),
            Column("parameters", lambda row: count(row[1][1]), right=True),
        ],
        title="on held-out rows",
    )
    limit = "" if result.highest is None else f", at most {count(result.highest)}"
    pairs = [
        (
            f"found, {result.metric}",
            f"{result.fitness:.4f} on {count(result.held_out)} rows held out of the training rows",
        ),
        ("everything on", f"{result.whole:.4f} there"),
        ("parameters", f"{count(result.parameters)} in adapters{limit}"),
        ("generations", f"{result.generations}, {count(result.tried)} configurations"),
        ("time", f"{duration(result.supernet_seconds)} for the supernet, {duration(result.seconds)} for the evolution"),
        ("folder", str(result.folder)),
    ]
    if result.emitted is not None:
        pairs.append(("recipe", str(result.emitted)))
    return found, best, facts(pairs)


def tally(choices: Iterable[str]) -> str:
    """``lora 3, none 1``: how often each was chosen, the most frequent first."""
    counted = Counter(choice for choice in choices if choice)
    return ", ".join(f"{choice} {times}" for choice, times in counted.most_common())


def what_next(result: EvolutionResult, *, offline: bool) -> str:
    """The command lines that go on from here."""
    from lorakit.cli.output import next_line

    recipe = result.emitted or result.found / "recipe.yaml"
    switch = " --offline" if offline else ""
    return "\n".join(
        (
            "next:",
            f"  {next_line('train', recipe)}",
            f"  {next_line('eval', result.task, '--run', result.found)}{switch}",
        )
    )
