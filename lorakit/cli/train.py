"""``lorakit train``: a recipe becomes a run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorakit.cli.options import AsJson, Offline, Overrides, Quiet, RecipeName, Seed, before_imports, open_recipe

if TYPE_CHECKING:
    from lorakit.recipe.load import LoadedRecipe
    from lorakit.workflow.train import TrainResult


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan; train and write nothing.")
    ] = False,
    run_dir: Annotated[
        Optional[Path], typer.Option("--run-dir", help="The run's folder; runs/NAME-SEED by default.", file_okay=False)
    ] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the adapters of a recipe, with its search where it has one."""
    before_imports(offline=offline, quiet=quiet)
    from lorakit.cli.output import listening, say, write, write_json

    loaded, folder = open_recipe(recipe, overrides, seed=seed, offline=offline)
    with listening(quiet=quiet):
        if dry_run:
            preview(loaded, as_json=as_json)
            return
        say(f"loading {loaded.recipe.model.name} and {loaded.recipe.task.name}", quiet=quiet)
        import lorakit
        from lorakit.cli.progress import ProgressHook

        with ProgressHook(quiet=quiet) as progress:
            result = lorakit.train(loaded, run_dir=run_dir or folder, resume=resume, hooks=[progress])
    if as_json:
        write_json(result.to_dict())
        return
    from lorakit.reporting.tables import facts

    write(facts(summary(result)))
    say(what_next(result, offline=loaded.recipe.run.offline), quiet=quiet)


def preview(loaded: LoadedRecipe, *, as_json: bool) -> None:
    """Print the resolved recipe and its plan; nothing is written."""
    import lorakit
    from lorakit.cli.output import write, write_json
    from lorakit.cli.plan import plan_tables

    planned = lorakit.plan(loaded)
    if as_json:
        write_json({"recipe": dataclasses.asdict(loaded.recipe), "plan": planned.to_dict()})
    else:
        write(loaded.to_yaml(), *plan_tables(planned))


def summary(result: TrainResult) -> list[tuple[str, str]]:
    """What a person wants to know when a training has ended, as (name, value) pairs."""
    from lorakit.reporting.tables import count, duration, scores

    share = result.search_seconds / result.seconds if result.seconds else 0.0
    time = duration(result.seconds)
    if result.search_seconds:
        time += f", {share:.0%} of it search"
    return [
        (f"last, step {result.steps}", scores(result.last)),
        (
            f"best, step {result.best_step}",
            f"{scores(result.best)}  (chosen by {result.metric} on the validation split)",
        ),
        ("parameters", f"{count(result.adapter_parameters)} in adapters, {count(result.head_parameters)} in the head"),
        ("sites on", f"{result.sites_on} of {result.sites_total}"),
        ("time", time),
        ("run", str(result.run_dir)),
    ]


def what_next(result: TrainResult, *, offline: bool) -> str:
    """The command lines that go on from here."""
    from lorakit.cli.output import next_line

    switch = " --offline" if offline else ""
    return "\n".join(
        (
            "next:",
            f"  {next_line('eval', result.task, '--run', result.run_dir)}{switch}",
            f"  {next_line('merge', result.run_dir)}",
            f"  {next_line('predict', result.run_dir, 'FILE')}",
        )
    )
