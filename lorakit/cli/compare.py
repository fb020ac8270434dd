"""``lorakit compare``: recipes and runs over several seeds, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_recipe_or_run_or_setting
from lorakit.cli.experiments import (
    Csv,
    Folder,
    Metric,
    NoWait,
    On,
    Seeds,
    SlurmOptions,
    SubmitOnly,
    Workers,
    heading,
    request,
    say_the_rest,
    spread,
    tell_submitted,
    too_wide,
)
from lorakit.cli.options import AsJson, Offline, Quiet
from lorakit.cli.output import write
from lorakit.reporting.tables import Column, count, duration, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.reporting.stats import Difference
    from lorakit.workflow.experiments.compare import Comparison


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE_OR_RUN... [KEY=VALUE]...",
            help="Recipes and run folders; the others are compared to the first. KEY=VALUE sets a key of all recipes.",
            autocompletion=complete_recipe_or_run_or_setting,
        ),
    ],
    seeds: Seeds = None,
    folder: Folder = None,
    metric: Metric = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Train nothing; compare the runs that exist.")] = False,
    workers: Workers = None,
    on: On = None,
    slurm_option: SlurmOptions = None,
    submit_only: SubmitOnly = False,
    no_wait: NoWait = False,
    figure: Annotated[
        Optional[Path],
        typer.Option(
            "--figure", metavar="FILE", help="Where the figure goes; FOLDER/comparison.png by default.", dir_okay=False
        ),
    ] = None,
    csv: Csv = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare recipes over several seeds, and runs that exist; train what is missing."""
    how = {"no_wait": no_wait, "offline": offline, "quiet": quiet}
    asked = request(seeds, folder, metric, csv, workers=workers, on=on, slurm=slurm_option, **how)
    arms, overrides = sorted_out(arguments)
    with envelope(offline=offline, quiet=quiet):
        if submit_only:
            given = {**asked, "train": not no_train, "figure": figure}
            answer(lorakit.submit_compare(arms, overrides, **given), tell_submitted, as_json=as_json)
            return
        result = lorakit.compare(arms, overrides, **asked, train=not no_train, figure=figure)
        answer(result, tell, as_json=as_json)
        say_the_rest(result, (result.figure, csv))


def tell(result: Comparison) -> None:
    """Write the tables, and what the best score is worth."""
    best = f"best: the epoch with the best {result.best_by} on the validation split itself, where it looks better than it is"
    write(*comparison_tables(result), best)


def sorted_out(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is compared, and KEY=VALUE: an argument with ``=`` in it, unless there is such a file or folder."""
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    return [word for word in arguments if word not in overrides], overrides


def comparison_tables(result: Comparison) -> list[Table]:
    """The sides, in one table or on a narrow terminal in two; and where there are several, their differences to the first."""
    name = Column("side", lambda arm: f"{arm.name} ({arm.collapsed} collapsed)" if arm.collapsed else arm.name)
    scores = [
        Column("runs", lambda arm: len(arm.runs), right=True),
        Column("last", lambda arm: spread(arm.last), right=True),
        Column("median", lambda arm: f"{arm.last.median:.4f}", right=True),
        Column("best", lambda arm: spread(arm.best), right=True),
        Column("median", lambda arm: f"{arm.best.median:.4f}", right=True),
    ]
    costs = [
        Column("adapters", lambda arm: count(arm.adapter_parameters), right=True),
        Column("head", lambda arm: count(arm.head_parameters), right=True),
        Column("a run", lambda arm: duration(arm.seconds), right=True),
        Column("search", lambda arm: f"+{arm.search_overhead:.0%}" if arm.search_overhead else "", right=True),
    ]
    tables = [table(result.sides, [name, *scores, *costs], title=heading(result))]
    if too_wide(tables[0]):
        tables = [table(result.sides, [name, *scores], title=heading(result)), table(result.sides, [name, *costs])]
    gaps = [
        (arm.name, which, gap)
        for arm in result.sides
        for which, gap in (("last", arm.last_difference), ("best", arm.best_difference))
        if gap is not None
    ]
    if gaps:
        columns = [
            Column("side", lambda row: row[0]),
            Column("epoch", lambda row: row[1]),
            Column("pairs", lambda row: row[2].n, right=True),
            Column("difference", lambda row: f"{row[2].mean:+.4f}", right=True),
            Column("95 % interval", lambda row: bounds(row[2]), right=True),
            Column("above", lambda row: f"{row[2].wins} of {row[2].n}", right=True),
        ]
        tables.append(table(gaps, columns, title=f"difference to {result.sides[0].name}, paired by seed"))
    return tables


def bounds(difference: Difference) -> str:
    """``-0.0121 to +0.0034``; nothing of one pair."""
    return f"{difference.low:+.4f} to {difference.high:+.4f}" if difference.n > 1 else ""
