"""``lorakit export``: a run for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.merge import proof
from lorakit.cli.options import AsJson, CutRank, Force, NewestRun, Quiet, Tolerance, Weights, given_or_newest
from lorakit.cli.output import say, write
from lorakit.errors import UsageError
from lorakit.reporting.tables import count, counted, facts, memory, ranks, scores

if TYPE_CHECKING:
    from lorakit.workflow.export import ExportResult
    from lorakit.workflow.export_onnx import OnnxResult


def export(
    run: NewestRun = None,
    to: Annotated[
        Literal["peft", "onnx"],
        typer.Option("--to", help="What to write for: the adapter for PEFT, or all for ONNX Runtime."),
    ] = "peft",
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Where it goes.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: a second model with weights of 8 bits.")] = False,
    weights: Weights = None,
    rank: CutRank = None,
    tolerance: Tolerance = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's adapter as a PEFT folder, or its classifier for ONNX Runtime, with a model card."""
    with envelope(quiet=quiet):
        if to == "onnx":
            say("exporting, then comparing ONNX Runtime with the adapted model on real batches")
            made = lorakit.export_onnx(
                given_or_newest(run), out=out, int8=int8, weights=weights, tolerance=tolerance, force=force, rank=rank
            )
            answer(made, tell_onnx, as_json=as_json)
            return
        if int8:
            raise UsageError("--int8 is for --to onnx")
        result = lorakit.export(
            given_or_newest(run), to=to, out=out, weights=weights, tolerance=tolerance, force=force, rank=rank
        )
        answer(result, tell, as_json=as_json)


def tell_onnx(result: OnnxResult) -> None:
    """Write what was written, how far it is from the run, and what 8 bits cost."""
    pairs = [
        ("adapters", "in the weights" if result.merged else "beside the weights: not all of them merge"),
        ("inputs", f"{', '.join(result.inputs)}: rows x tokens"),
        ("proof", f"{proof(result)}, {counted(result.flips, 'label')} changed"),
        ("model", f"{result.out}, {memory(result.bytes)}"),
    ]
    if result.int8 is not None:
        small = result.int8
        lost = f"largest logit difference {small.largest_difference:.3g}, {counted(small.flips, 'label')} changed"
        told = f"not scored: {small.note}"
        if small.rows:
            told = f"{scores(small.scores)} on {counted(small.rows, 'row')}, where it was {scores(small.float_scores)}"
        pairs.append(("in int8", f"{memory(small.bytes)}; {lost}; {told}"))
    write(facts(pairs))


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
