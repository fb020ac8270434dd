"""``lorakit export``: a run's adapter for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from lorakit.cli.options import AsJson, Force, Quiet, Weights, before_imports

if TYPE_CHECKING:
    from lorakit.workflow import ExportResult


def export(
    run: Annotated[
        Optional[Path], typer.Argument(metavar="RUN", help="A run folder; the newest in runs by default.")
    ] = None,
    to: Annotated[Literal["peft"], typer.Option("--to", help="The library it is for.")] = "peft",
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Where the adapter goes.")] = None,
    weights: Weights = "last",
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0.0, help="The largest logit difference that is accepted, in fp32 logits."),
    ] = 1e-3,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's adapter as a PEFT folder, with its head and a model card."""
    before_imports(quiet=quiet)
    from lorakit.cli.output import listening, say, write, write_json

    with listening(quiet=quiet):
        from lorakit import workflow
        from lorakit.artifacts.run import newest_run

        source = run if run is not None else newest_run(Path("runs"), None).path
        result = workflow.export(source, to=to, out=out, weights=weights, tolerance=tolerance, force=force)
    if as_json:
        write_json(result.to_dict())
        return
    from lorakit.report.tables import facts

    write(facts(export_facts(result)))
    say(f"load it with:\n{result.load_line}", quiet=quiet)


def export_facts(result: ExportResult) -> list[tuple[str, str]]:
    """What was written, and how far what was read again is from the run, as (name, value) pairs."""
    from lorakit.report.tables import count

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
