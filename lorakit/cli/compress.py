"""``lorakit compress``: a finished run whose adapter takes less room, without training it again."""

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
    from lorakit.workflow.compress import CompressResult


def compress(
    run: NewestRun = None,
    method: Annotated[
        Literal["svd", "compeft"],
        typer.Option("--method", help="Cut updates to a lower rank, or code their largest changes as signs."),
    ] = "svd",
    rank: Annotated[
        Optional[int], typer.Option("--rank", metavar="K", help="Of svd: the highest rank that a site keeps.")
    ] = None,
    energy: Annotated[
        Optional[float],
        typer.Option(
            "--energy", metavar="SHARE", help="Of svd: the share of its squared singular values that a site keeps."
        ),
    ] = None,
    density: Annotated[
        Optional[float],
        typer.Option(
            "--density", metavar="SHARE", help="Of compeft: the share of entries that is kept; 0.2 by default."
        ),
    ] = None,
    scale: Annotated[
        Optional[float],
        typer.Option(
            "--scale",
            metavar="ALPHA",
            help="Of compeft: the size of these, in standard deviations of all; nearest to them by default.",
        ),
    ] = None,
    score: Annotated[
        bool, typer.Option("--eval", help="Score the run before and after on its own validation rows.")
    ] = False,
    weights: Weights = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="RUN", help="The run folder to make.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a run with a smaller adapter of a finished one."""
    with envelope(quiet=quiet):
        result = lorakit.compress(
            given_or_newest(run),
            method=method,
            rank=rank,
            energy=energy,
            density=density,
            scale=scale,
            score=score,
            out=out,
            weights=weights,
        )
        answer(result, tell, as_json=as_json)


def tell(result: CompressResult) -> None:
    """Write what it weighs, and how far its updates and scores are from the run's."""
    if result.ranks is not None:
        how = f"svd, {ranks(*result.ranks)}"
    elif result.code is not None:
        start = (
            "the start that the recipe draws"
            if result.code.start == "drawn"
            else "what tensors start from by themselves"
        )
        how = f"compeft, {count(result.code.kept)} of {count(result.entries)} entries, added to {start}"
        how += f"; {counted(result.code.from_zero, 'tensor')} from zero" if result.code.from_zero else ""
    sizes = [
        Column("bytes of", lambda size: size.name),
        Column("before", lambda size: count(size.before), right=True),
        Column("after", lambda size: count(size.after), right=True),
        Column("", lambda size: f"{size.after / size.before:.1%}" if size.before else "", right=True),
    ]
    errors = [
        Column("role", lambda error: error.role),
        Column("sites", lambda error: count(error.sites), right=True),
        Column("error of updates", lambda error: f"{error.error:.2%}", right=True),
    ]
    pairs = [("method", how)]
    if result.code is not None:
        pairs.append(("scale", f"{result.code.scale:.3g}; nearest to the kept entries is {result.code.nearest:.3g}"))
    if result.error is not None:
        pairs.append(("error of all updates", f"{result.error:.2%} of their norm"))
    if result.scores is not None:
        told = result.scores
        rows = f"{counted(told.rows, 'row')} of the run's validation split"
        pairs.append((told.metric, f"{told.before:.4f} before, {told.after:.4f} after, on {rows}"))
    tables = [table(result.sizes, sizes), *([table(result.errors, errors)] if result.errors else [])]
    write(*tables, facts([*pairs, ("run", str(result.out))]))
    say(f"label texts with it:\n  {next_line('predict', result.out, 'FILE')}")
