"""``lorakit doctor``: does everything here work, and is this run whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_run
from lorakit.cli.options import AsJson, Quiet
from lorakit.cli.output import write
from lorakit.reporting.tables import Column, table

if TYPE_CHECKING:
    from lorakit.workflow.doctor.doctor import Diagnosis


def doctor(
    run: Annotated[
        Optional[Path],
        typer.Argument(
            metavar="RUN",
            help="A run folder, or the folder of a GLoRA search, to check.",
            autocompletion=complete_run,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the training that is killed and resumed.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check the environment and a run's folder, and that a killed training on the bundled data resumes exactly and merges."""
    with envelope(quiet=quiet):
        diagnosis = lorakit.doctor(run, quick=quick)
        answer(diagnosis.to_dict() | {"well": diagnosis.well}, lambda _: tell(diagnosis), as_json=as_json)
    if not diagnosis.well:
        raise typer.Exit(1)


def tell(diagnosis: Diagnosis) -> None:
    """Write a row for each check, and the verdict."""
    columns = [
        Column("check", lambda row: row.check),
        Column("verdict", lambda row: row.verdict),
        Column("detail", lambda row: row.detail),
        Column("what to do", lambda row: row.advice),
    ]
    write(table(diagnosis.checks, columns), verdict(diagnosis))


def verdict(diagnosis: Diagnosis) -> str:
    """The last line: what failed, and what is merely worth knowing."""
    found = [row.verdict for row in diagnosis.checks]
    failed, warned = found.count("failed"), found.count("warning")
    if failed:
        return f"{failed} failed"
    return f"nothing failed, {warned} worth a look" if warned else "all is well"
