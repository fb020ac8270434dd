"""``lorakit analyze``: what runs have learnt, as one page with figures, and in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_run, complete_task
from lorakit.cli.intrinsic import (
    Dimensions,
    Folder,
    FullRates,
    Intrinsic,
    Kinds,
    MeasureWorkers,
    Metric,
    Options,
    Rates,
    Seeds,
    measure,
)
from lorakit.cli.options import AsJson, Offline, Quiet, Weights, given_or_newest
from lorakit.cli.output import say, write, write_summary
from lorakit.errors import UsageError
from lorakit.reporting.tables import Column, counted, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.reporting.analysis.records import TaskKept
    from lorakit.workflow.analysis.analyze import AnalysisResult

Runs = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="RUN",
        help="Run folders over one backbone, or NAME=FOLDER; by default the newest finished one in runs.",
        autocompletion=complete_run,
    ),
]
Rows = Annotated[
    Optional[int],
    typer.Option(
        "--rows",
        metavar="N",
        help="Held-out rows of each run on which features are compared, 256 by default; 0: none.",
    ),
]
Others = Annotated[
    Optional[list[str]],
    typer.Option(
        "--others",
        metavar="TASK",
        help="Another task: what does the update do to it, and to the run's own? A name (see: lorakit list tasks), a recipe, or a file of "
        "texts and labels. Repeatable.",
        autocompletion=complete_task,
    ),
]
ProbeRows = Annotated[
    Optional[int],
    typer.Option(
        "--probe-rows",
        metavar="N",
        help="With --others: rows of each task that a linear probe is fitted on, and that it is scored on; 500 by default.",
    ),
]


def analyze(
    runs: Runs = None,
    rows: Rows = None,
    others: Others = None,
    probe_rows: ProbeRows = None,
    weights: Weights = None,
    intrinsic: Intrinsic = None,
    dimensions: Dimensions = None,
    kinds: Kinds = None,
    lr: Rates = None,
    full_lr: FullRates = None,
    seeds: Seeds = None,
    metric: Metric = None,
    folder: Folder = None,
    workers: MeasureWorkers = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Look into what runs have learnt: where their updates are, which directions they take, how far features moved, what others keep."""
    options = Options(dimensions, kinds, lr, full_lr, seeds, metric, folder, workers)
    with envelope(offline=offline, quiet=quiet):
        if intrinsic is not None:
            alone = {"--rows": rows, "--others": others, "--probe-rows": probe_rows, "--weights": weights}
            for option, value in alone.items():
                if value is not None:
                    raise UsageError("looks at runs, and --intrinsic trains its own", where=option, hint="leave it out")
            measure(intrinsic, runs or [], options, offline=offline, quiet=quiet, as_json=as_json)
            return
        options.refuse()
        chosen: list[str | Path] = list(runs) if runs else [given_or_newest(None)]
        looked = lorakit.analyze(
            *chosen,
            weights=weights,
            rows=rows,
            others=others or [],
            probe_rows=probe_rows,
            offline=offline,
        )
        answer(looked, tell, as_json=as_json)


def tell(result: AnalysisResult) -> None:
    """Write the summary, and where the page is."""
    write_summary(result.summary)
    for run in result.runs:
        if run.kept is not None and run.kept.tasks:
            write(probe_table(run.name, run.kept.tasks))
    write(f"page  {result.page}")
    say(f"the page is one self-contained file; {counted(len(result.figures), 'figure')} beside it as PNG")


def probe_table(run: str, tasks: Sequence[TaskKept]) -> Table:
    """A line for each task: what probes get right, in percent, and the change in points."""
    from lorakit.reporting.analysis.kept_words import interval, points, share

    columns = [
        Column("task", lambda task: task.name + " (own)" * task.own),
        Column("before", lambda task: share(task.before), right=True),
        Column("after", lambda task: share(task.after), right=True),
        Column("change", lambda task: points(task.change.mean), right=True),
        Column("95 % interval", lambda task: interval(task.change), right=True),
        Column("random", lambda task: "" if task.random is None else share(task.random), right=True),
    ]
    return table(tasks, columns, title=f"{run}: held-out rows that a probe gets right")
