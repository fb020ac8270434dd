"""``lorakit export``: a run's adapter for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.merge import proof
from lorakit.cli.options import AsJson, CutRank, Force, NewestRun, Quiet, Tolerance, Weights, given_or_newest
from lorakit.cli.output import say, write
from lorakit.reporting.tables import count, facts, ranks

if TYPE_CHECKING:
    from lorakit.workflow.export import ExportResult


def export(
    run: NewestRun = None,
    to: Annotated[Literal["peft"], typer.Option("--to", help="The library to write for.")] = "peft",
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Where the adapter goes.")] = None,
    weights: Weights = None,
    rank: CutRank = None,
    tolerance: Tolerance = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's adapter as a PEFT folder, with its head and a model card."""
    with envelope(quiet=quiet):
        result = lorakit.export(
            given_or_newest(run), to=to, out=out, weights=weights, tolerance=tolerance, force=force, rank=rank
        )
        answer(result, tell, as_json=as_json)


def tell(result: ExportResult) -> None:
    """Write what was written, and how far what was read again is from the run."""
    low, high = result.ranks
    pairs = [
        ("method", f"{result.method}, as {result.kind} in PEFT"),
        ("sites", count(result.sites) + (f", {ranks(low, high)}" if high else "")),
        ("proof", f"{proof(result)}, read by {result.read_by}"),
        ("adapter", str(result.out)),
    ]
    write(facts(pairs))
    say(f"load it with:\n{result.load_line}")
