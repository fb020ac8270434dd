"""``lorakit search``: find the adapters to train, and write that down as a recipe.

heterolora scores every site once and gives the budget to the best, gradsvd gives every site a rank; glora evolves a
configuration for every site.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_allocator, complete_proxy, complete_recipe
from lorakit.cli.options import (
    RECIPE_HELP,
    AsJson,
    Force,
    LabelColumn,
    ModelName,
    Offline,
    Overrides,
    Quiet,
    Seed,
    TextColumn,
    open_recipe,
    refuse_overwrite,
)
from lorakit.cli.output import next_line, say, write
from lorakit.cli.search_glora import evolve
from lorakit.errors import UsageError
from lorakit.reporting.tables import Column, bar, count, duration, facts, heat_map, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.searching.split_half import SplitHalf
    from lorakit.workflow.search import SearchResult


def search(
    recipe: Annotated[
        Optional[str],
        typer.Argument(
            metavar="RECIPE",
            help=RECIPE_HELP + " By default recipe.yaml in this folder, else demo.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    overrides: Overrides = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    model: ModelName = None,
    method: Annotated[
        Optional[str],
        typer.Option(
            "--method",
            help="The allocator: heterolora, gradsvd or another that can decide before a training, or glora, which trains a "
            "supernet and then evolves. By default the recipe's, else heterolora.",
            autocompletion=complete_allocator,
        ),
    ] = None,
    proxy: Annotated[
        Optional[str],
        typer.Option(
            "--proxy",
            help="heterolora: how sites are scored; see: lorakit list proxies.",
            autocompletion=complete_proxy,
        ),
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
    with envelope(offline=offline, quiet=quiet):
        from lorakit.searching.allocator import allocators, comes_before_training

        name, settings = recipe_or_default(recipe, overrides or [])
        if proxy is not None:
            settings.append(f"search.proxy={proxy}")
        if method is not None:
            settings.append(f"search.method={method}")
        if emit is not None:
            refuse_overwrite(emit, force=force)
        loaded = open_recipe(name, settings, seed=seed, offline=offline, text=text, label=label, model=model)
        if comes_before_training(loaded.recipe.search):
            evolve(loaded, run_dir, resume=resume, emit=emit, keep=keep, quiet=quiet, as_json=as_json)
            return
        given = {"--resume": resume, "--keep-weights": keep, "--run-dir": run_dir is not None}
        if wrong := [option for option, value in given.items() if value]:
            able = " or ".join(name for name, kind in allocators.items() if kind.before_training)
            raise UsageError(
                f"only --method {able} takes {' and '.join(wrong)}", hint=f"leave {' and '.join(wrong)} out"
            )
        say(f"scoring the sites of {loaded.recipe.model.name} on {loaded.recipe.task.name}")
        answer(lorakit.search(loaded, emit=emit), tell, as_json=as_json)


def recipe_or_default(recipe: str | None, overrides: list[str]) -> tuple[str, list[str]]:
    """The recipe to search and the overrides; a first argument KEY=VALUE is an override, not a recipe."""
    default = "recipe.yaml" if Path("recipe.yaml").is_file() else "demo"
    if recipe is None:
        return default, list(overrides)
    if "=" in recipe and not Path(recipe).exists():
        return default, [recipe, *overrides]
    return recipe, list(overrides)


def tell(result: SearchResult) -> None:
    """Write the ranked sites with bars, the allocation as layers by roles, and the budget; say what can be done next."""
    write(ranking(result), allocation(result), facts(outcome(result)))
    if result.note:
        say(f"{result.proxy}: {result.note}")
    if result.emitted is not None:
        say(f"next:\n  {next_line('train', result.emitted)}")


def ranking(result: SearchResult) -> Table:
    """The sites, best first."""
    top = max((site.score for site in result.ranked), default=0.0)
    columns = [
        Column("site", lambda site: site.label),
        Column("score", lambda site: f"{site.score:.4g}", right=True),
        Column("", lambda site: bar(site.score / top if top > 0 else 0.0)),
        Column("rank", lambda site: site.rank, right=True),
        Column("parameters", lambda site: count(site.parameters), right=True),
        Column("", lambda site: "on" if site.on else ""),
    ]
    return table(result.ranked, columns, title=f"sites by {result.proxy}, best first")


def allocation(result: SearchResult) -> Table:
    """The ranks as layers by roles."""
    from lorakit.reporting.grid import site_grid

    grid = site_grid((site.layer, site.role, float(site.rank if site.on else 0)) for site in result.ranked)
    return heat_map(grid, lambda rank: f"{rank:.0f}" if rank else "·", title="rank by layer and role")


def outcome(result: SearchResult) -> list[tuple[str, str]]:
    """What the search came to, as (name, value) pairs."""
    pairs = [
        ("budget", f"{count(result.used)} of {count(result.budget)} used"),
        ("two halves", agreement(result.stability)),
        ("time", duration(result.seconds)),
    ]
    if result.emitted is not None:
        pairs.append(("recipe", str(result.emitted)))
    return pairs


def agreement(found: SplitHalf) -> str:
    """How stable the ranking is, and what a shuffled one is worth."""
    told = [f"of {count(found.rows)} training rows each:"]
    if found.correlation is not None:
        inside = "" if found.within_roles is None else f", {found.within_roles:.2f} within a role"
        told.append(f"scores correlate by {found.correlation:.2f}{inside};")
    if found.p is None:
        return " ".join([*told, "within a role there is nothing to choose"])
    told.append(
        f"a choice by one has {found.caught:.0%} of the scores of the other, shuffled ones {found.shuffled:.0%}"
    )
    verdict = "a shuffled ranking would do: the scores are noise on these data" if found.noise else "no chance"
    return " ".join([*told, f"(p = {found.p:.3f}): {verdict}"])
