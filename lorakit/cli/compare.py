"""``lorakit compare``: recipes and runs over several seeds, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, Csv, Metric, NoWait, Offline, Quiet, complete_recipe
from lorakit.cli.output import console, say, warn, write
from lorakit.errors import Problem, RunError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.reporting.stats import Difference, Summary
    from lorakit.workflow.experiments.compare import Comparison

ENDLESS = 10_000  # columns, more than any table takes


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE_OR_RUN... [KEY=VALUE]...",
            help="Recipes and run folders; the others are compared to the first. KEY=VALUE sets a key of all recipes.",
            autocompletion=complete_recipe,
        ),
    ],
    seeds: Annotated[
        Optional[str],
        typer.Option("--seeds", metavar="N,N", help="Train each recipe with these; 0,1,2,3,4 by default."),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(
            "--folder", help="Where the runs are, as NAME-SEED; several workers may share it.", file_okay=False
        ),
    ] = Path("runs/compare"),
    metric: Metric = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Train nothing, compare what is there.")] = False,
    no_wait: NoWait = False,
    figure: Annotated[
        Optional[Path],
        typer.Option("--figure", metavar="FILE", help="FOLDER/comparison.png by default.", dir_okay=False),
    ] = None,
    csv: Csv = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare recipes over several seeds, training what is missing, and runs that are there."""
    numbers = whole_numbers(seeds)
    names, overrides = sorted_out(arguments)
    with envelope(offline=offline, quiet=quiet):
        from lorakit.cli.progress import ProgressHook

        result = lorakit.compare(
            names,
            overrides,
            seeds=numbers,
            folder=folder,
            metric=metric,
            train=not no_train,
            wait=not no_wait,
            figure=figure,
            table=csv,
            offline=offline,
            watch=lambda: ProgressHook(quiet=quiet),
        )
        answer(result, tell, as_json=as_json)
        for warning in result.warnings:
            warn(warning)
        for lost in result.missing:
            warn(f"missing: {lost.run}: {lost.why}")
        for path in (result.figure, csv):
            if path is not None:
                say(f"wrote {path}")
    if result.failed:
        raise RunError([Problem(lost.why, where=lost.run) for lost in result.failed])


def tell(result: Comparison) -> None:
    """Write the tables, and what the best score is worth."""
    best = f"best: the epoch with the best {result.best_by} on the validation split itself, where it looks better than it is"
    write(*comparison_tables(result), best)


def whole_numbers(text: str | None) -> list[int] | None:
    """Seeds with commas between them. UsageError for anything else."""
    if text is None:
        return None
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"'{text}' is not a list of seeds", where="--seeds", valid="such as 0,1,2,3,4") from None
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise UsageError(f"'{text}' names a seed twice, or one below 0", where="--seeds", valid="such as 0,1,2,3,4")
    return numbers


def sorted_out(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is compared, and KEY=VALUE: an argument with ``=`` in it, unless there is such a file or folder."""
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    return [word for word in arguments if word not in overrides], overrides


def comparison_tables(result: Comparison) -> list[Table]:
    """The sides, in one table or on a narrow terminal in two; and where there are several, their differences to the first."""
    from lorakit.reporting.tables import Column, count, duration, table

    name = Column("side", lambda side: side.name)
    scores = [
        Column("runs", lambda side: len(side.runs), right=True),
        Column("last", lambda side: spread(side.last), right=True),
        Column("median", lambda side: f"{side.last.median:.4f}", right=True),
        Column("best", lambda side: spread(side.best), right=True),
        Column("median", lambda side: f"{side.best.median:.4f}", right=True),
    ]
    costs = [
        Column("adapters", lambda side: count(side.adapter_parameters), right=True),
        Column("head", lambda side: count(side.head_parameters), right=True),
        Column("a run", lambda side: duration(side.seconds), right=True),
        Column("search", lambda side: f"+{side.search_overhead:.0%}" if side.search_overhead else "", right=True),
    ]
    title = f"{result.task}, {result.metric}{'' if result.higher_is_better else ' (lower is better)'}"
    tables = [table(result.sides, [name, *scores, *costs], title=title)]
    if too_wide(tables[0]):
        tables = [table(result.sides, [name, *scores], title=title), table(result.sides, [name, *costs])]
    gaps = [
        (side.name, which, gap)
        for side in result.sides
        for which, gap in (("last", side.last_difference), ("best", side.best_difference))
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


def too_wide(drawn: Table) -> bool:
    """Whether the table has no room on this terminal, where its numbers would be cut."""
    from rich.measure import Measurement

    out = console()
    return Measurement.get(out, out.options.update(max_width=ENDLESS), drawn).maximum > out.width


def spread(summary: Summary) -> str:
    """``0.7892 ± 0.0031``; of one run its value alone."""
    return f"{summary.mean:.4f}" + (f" ± {summary.sd:.4f}" if summary.n > 1 else "")


def bounds(difference: Difference) -> str:
    """``-0.0121 to +0.0034``; nothing of one pair."""
    return f"{difference.low:+.4f} to {difference.high:+.4f}" if difference.n > 1 else ""
