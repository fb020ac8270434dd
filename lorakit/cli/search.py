"""``lorakit search``: find the adapters to train, and write that down as a recipe.

heterolora scores every site once and gives the budget to the best, gradsvd gives every site a rank; glora evolves a
configuration for every site.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorakit.cli.options import (
    RECIPE_HELP,
    AsJson,
    Force,
    Offline,
    Overrides,
    Quiet,
    Seed,
    before_imports,
    complete_recipe,
    open_recipe,
    refuse_overwrite,
)
from lorakit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.recipe.load import LoadedRecipe
    from lorakit.workflow.search import SearchResult


def search(
    recipe: Annotated[
        Optional[str],
        typer.Argument(
            metavar="RECIPE",
            help=RECIPE_HELP + " Where not given: recipe.yaml here, else demo.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Overrides = None,
    method: Annotated[
        Optional[str],
        typer.Option(
            "--method",
            help="heterolora, gradsvd and others that decide before a training; glora trains a supernet, then evolves. "
            "The recipe's, else heterolora.",
        ),
    ] = None,
    proxy: Annotated[
        Optional[str], typer.Option("--proxy", help="heterolora: the score; see: lorakit list proxies.")
    ] = None,
    emit: Annotated[
        Optional[Path], typer.Option("--emit", metavar="OUT.yaml", help="Write a recipe with what was found in it.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep-weights", help="glora: that recipe starts from the supernet's weights.")
    ] = False,
    run_dir: Annotated[
        Optional[Path],
        typer.Option("--run-dir", help="glora: the search's folder; runs/NAME-glora-SEED by default.", file_okay=False),
    ] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="glora: go on with a search that was interrupted.")] = False,
    offline: Offline = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score all sites once (static HeteroLoRA), or evolve a configuration for each of them (GLoRA)."""
    before_imports(offline=offline, quiet=quiet)
    from lorakit.searching.allocator import allocators, comes_before_training

    name, settings = recipe_or_default(recipe, overrides or [])
    if proxy is not None:
        settings.append(f"search.proxy={proxy}")
    if method is not None:
        settings.append(f"search.method={method}")
    if emit is not None:
        refuse_overwrite(emit, force=force)
    loaded, folder = open_recipe(name, settings, seed=seed, offline=offline)
    if comes_before_training(loaded.recipe.search):
        from lorakit.cli.evolution import evolve

        evolve(loaded, run_dir or folder, resume=resume, emit=emit, keep=keep, quiet=quiet, as_json=as_json)
        return
    given = {"--resume": resume, "--keep-weights": keep, "--run-dir": run_dir is not None}
    if wrong := [option for option, value in given.items() if value]:
        able = " or ".join(name for name, kind in allocators.items() if kind.before_training)
        raise UsageError(f"{' and '.join(wrong)} goes with --method {able} only", hint="leave it out")
    score(loaded, emit, quiet=quiet, as_json=as_json)


def score(loaded: LoadedRecipe, emit: Path | None, *, quiet: bool, as_json: bool) -> None:
    """Score all sites once, and print them with the allocation."""
    from lorakit.cli.output import listening, next_line, say, write, write_json

    with listening(quiet=quiet):
        say(f"scoring the sites of {loaded.recipe.model.name} on {loaded.recipe.task.name}", quiet=quiet)
        import lorakit

        result = lorakit.search(loaded, emit=emit)
    if as_json:
        write_json(result.to_dict())
        return
    write(*search_tables(result))
    if result.note:
        say(f"{result.proxy}: {result.note}", quiet=quiet)
    if result.emitted is not None:
        say(f"next:\n  {next_line('train', result.emitted)}", quiet=quiet)


def recipe_or_default(recipe: str | None, overrides: list[str]) -> tuple[str, list[str]]:
    """The recipe to search and the overrides; a first argument KEY=VALUE is an override, not a recipe."""
    default = "recipe.yaml" if Path("recipe.yaml").is_file() else "demo"
    if recipe is None:
        return default, list(overrides)
    if "=" in recipe and not Path(recipe).exists():
        return default, [recipe, *overrides]
    return recipe, list(overrides)


def search_tables(result: SearchResult) -> tuple[Table, ...]:
    """The ranked sites with bars, the allocation as layers by roles, and the budget."""
    from lorakit.reporting.grid import site_grid
    from lorakit.reporting.tables import Column, bar, count, duration, facts, heat_map, table

    top = max((site.score for site in result.ranked), default=0.0)
    ranked = table(
        result.ranked,
        [
            Column("site", lambda site: site.label),
            Column("score", lambda site: f"{site.score:.4g}", right=True),
            Column("", lambda site: bar(site.score / top if top > 0 else 0.0)),
            Column("rank", lambda site: site.rank, right=True),
            Column("parameters", lambda site: count(site.parameters), right=True),
            Column("", lambda site: "on" if site.on else ""),
        ],
        title=f"sites by {result.proxy}, best first",
    )
    grid = site_grid((site.layer, site.role, float(site.rank if site.on else 0)) for site in result.ranked)
    allocation = heat_map(grid, lambda rank: f"{rank:.0f}" if rank else "·", title="rank by layer and role")
    pairs = [("budget", f"{count(result.used)} of {count(result.budget)} used"), ("time", duration(result.seconds))]
    if result.emitted is not None:
        pairs.append(("recipe", str(result.emitted)))
    return ranked, allocation, facts(pairs)
