"""``lorakit ensemble``: several runs as one classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, Force, Quiet
from lorakit.cli.output import next_line, say, write
from lorakit.errors import UsageError
from lorakit.reporting.tables import facts

if TYPE_CHECKING:
    from lorakit.workflow.ensembles import Ensemble


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="The folders of two runs or more.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the ensemble.", file_okay=False)],
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let several runs answer as one classifier, by the mean of their probabilities; the runs stay where they are."""
    with envelope(offline=True, quiet=quiet):
        if (out / "ensemble.json").exists() and not force:
            raise UsageError("an ensemble is here already", where=str(out), hint="another --out, or --force")
        answer(lorakit.ensemble(runs, out=out), tell, as_json=as_json)


def tell(result: Ensemble) -> None:
    """Write which runs answer together."""
    write(
        facts(
            [
                ("runs", ", ".join(map(str, result.runs))),
                ("labels", ", ".join(result.labels) or "a number"),
                ("folder", str(result.out)),
            ]
        )
    )
    say(f"next:\n  {next_line('predict', result.out, 'FILE')}\n  {next_line('eval', result.out, '--file', 'FILE')}")
