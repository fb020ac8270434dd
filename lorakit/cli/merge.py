"""``lorakit merge``: fold a run into a plain checkpoint that proves itself first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, CutRank, Force, NewestRun, Quiet, Tolerance, Weights, given_or_newest
from lorakit.cli.output import say, write
from lorakit.reporting.tables import counted, facts

if TYPE_CHECKING:
    from lorakit.workflow.export import ExportResult
    from lorakit.workflow.export_onnx import OnnxResult
    from lorakit.workflow.merge import MergeResult


def merge(
    run: NewestRun = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Where the checkpoint goes.")] = None,
    weights: Weights = None,
    rank: CutRank = None,
    tolerance: Tolerance = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fold a run's adapters into a plain Hugging Face checkpoint."""
    with envelope(quiet=quiet):
        say("merging, then comparing with the adapted model on real batches")
        result = lorakit.merge(
            given_or_newest(run), out=out, weights=weights, tolerance=tolerance, force=force, rank=rank
        )
        answer(result, tell, as_json=as_json)


def tell(result: MergeResult) -> None:
    """Write what was folded, and how far the merged model is from the adapted one."""
    pairs = [
        ("folded", counted(result.folded, "site")),
        ("proof", f"{proof(result)}, {counted(result.flips, 'label')} changed"),
    ]
    if result.pruned is not None:
        small = result.pruned
        left = [f"{number:,} {kind} a layer, {small.before[kind]:,} before" for kind, number in small.left.items()]
        parameters = f"{small.parameters:,} parameters, {small.parameters_before:,} before"
        pairs.append(("smaller", "; ".join([*left, parameters, f"{small.weight_bytes / 2**20:.1f} MiB of weights"])))
    if result.kept:
        kept = f"{counted(len(result.kept), 'site')} that a plain checkpoint cannot hold: {', '.join(result.kept)}"
        pairs.append(("kept apart", kept))
    if result.closed:
        pairs.append(("loads in", f"lorakit alone: of any other loader, {'; '.join(result.closed)}"))
    if result.int4_group is not None:
        told = (
            f"the integers of before, in groups of {result.int4_group}: lorakit loads it in 4 bits, transformers dense"
        )
        pairs.append(("in int4", told))
    if result.temperature != 1:
        told = f"{result.temperature:.4g}: lorakit divides logits by it before the softmax; transformers alone does not"
        pairs.append(("temperature", told))
    pairs.append(("checkpoint", str(result.out)))
    write(facts(pairs))
    say(f"load it with:\n  {result.load_line}")


def proof(result: MergeResult | ExportResult | OnnxResult) -> str:
    """How far what was written is from the run, on how many rows."""
    return (
        f"{counted(result.rows, 'row')}: largest logit difference {result.largest_difference:.3g} "
        f"(allowed {result.tolerance:.3g}, largest logit {result.largest_logit:.3g})"
    )
