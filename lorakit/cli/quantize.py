"""``lorakit quantize``: a finished run on 4-bit weights, without training it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, NewestRun, Quiet, Weights, given_or_newest
from lorakit.cli.output import next_line, say, write
from lorakit.reporting.tables import Column, count, counted, facts, ranks, table

if TYPE_CHECKING:
    from lorakit.workflow.quantize import QuantizeResult

MIB = 2**20


def quantize(
    run: NewestRun = None,
    method: Annotated[
        Literal["lqer", "l2qer"],
        typer.Option("--method", help="Correct what the weights lose, or what their outputs on training rows do."),
    ] = "l2qer",
    bits: Annotated[
        Literal["int4", "nf4"], typer.Option("--bits", help="How the weights are kept: see model.quantization.")
    ] = "int4",
    group: Annotated[
        int, typer.Option("--group", metavar="N", help="Of int4: inputs that have a scale and a zero point in common.")
    ] = 32,
    rank: Annotated[int, typer.Option("--rank", metavar="K", help="The rank of the correction.")] = 32,
    rows: Annotated[int, typer.Option("--rows", help="Training rows that l2qer looks at.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides which training rows are looked at.")] = 0,
    weights: Weights = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="RUN", help="The run folder to make.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put a finished run on 4-bit weights, with a low-rank correction of what that loses."""
    with envelope(quiet=quiet):
        result = lorakit.quantize(
            given_or_newest(run),
            method=method,
            bits=bits,
            group=group,
            rank=rank,
            rows=rows,
            seed=seed,
            out=out,
            weights=weights,
        )
        answer(result, tell, as_json=as_json)


def tell(result: QuantizeResult) -> None:
    """Write what it costs and gives, without the correction and with it."""
    looked = f", by {counted(result.rows, 'training row')}" if result.rows else ""
    pairs = [
        ("weights", f"{count(result.sites)} in {result.bits}"),
        (
            "correction",
            f"{result.method}, rank {result.rank}{looked}; with the run's own update {ranks(*result.ranks)}",
        ),
        ("compared on", counted(result.scored_rows, "row")),
        ("run", str(result.out)),
    ]
    columns = [
        Column("", lambda state: state.name),
        Column("MiB", lambda state: f"{state.bytes / MIB:.1f}", right=True),
        Column("error of logits", lambda state: f"{state.error:.2%}", right=True),
        Column("largest", lambda state: f"{state.largest:.3g}", right=True),
        Column("labels changed", lambda state: count(state.flips), right=True),
        Column(result.metric, lambda state: "" if state.score is None else f"{state.score:.4f}", right=True),
    ]
    write(table(result.states, columns), facts(pairs))
    say(f"label texts with it:\n  {next_line('predict', result.out, 'FILE')}")
