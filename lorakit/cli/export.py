"""``lorakit export``: a run's adapter for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from lorakit.cli.options import (
    AsJson,
    CutRank,
    Force,
    NewestRun,
    Quiet,
    Tolerance,
    Weights,
    before_imports,
    given_or_newest,
)

if TYPE_CHECKING:
    from lorakit.workflow.export import ExportResult


def export(
    run: NewestRun = None,
    to: Annotated[Literal["peft"], typer.Option("--to", help="The library it is for.")] = "peft",
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Where the adapter goes.")] = None,
    weights: Weights = "last",
    rank: CutRank = None,
    tolerance: Tolerance = 1e-3,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's adapter as a PEFT folder, with its head and a model card."""
    before_imports(quiet=quiet)
    from lorakit.cli.output import listening, say, write, write_json

    with listening(quiet=quiet):
        import lorakit

        result = lorakit.export(
            given_or_newest(run), to=to, out=out, weights=weights, tolerance=tolerance, force=force, rank=rank
        )
    if as_json:
        write_json(result.to_dict())
        return
    from lorakit.reporting.tables import facts

    write(facts(export_facts(result)))
    say(f"load it with:\n{result.load_line}", quiet=quiet)


def export_facts(result: ExportResult) -> list[tuple[str, str]]:
    """What was written, and how far what was read again is from the run, as (name, value) pairs."""
    from lorakit.reporting.tables import count

    low, high = result.ranks
    ranks = "" if high == 0 else f", rank {low}" if low == high else f", ranks {low} to {high}"
    return [
        ("method", f"{result.method}, as {result.kind} in PEFT"),
        ("sites", f"{result.sites}{ranks}"),
        (
            "proof",
            f"{count(result.rows)} rows: largest logit difference {result.largest_difference:.3g} "
            f"(allowed {result.tolerance:.3g}, largest logit {result.largest_logit:.3g})",
        ),
        ("adapter", str(result.out)),
    ]
