"""``lorakit card``: a run's model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, BaseName, Force, NewestRun, Quiet, given_or_newest
from lorakit.cli.output import write
from lorakit.reporting.tables import facts

if TYPE_CHECKING:
    from lorakit.workflow.card import CardResult


def card(
    run: NewestRun = None,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", metavar="FILE", help="Where the card goes; README.md in the run by default."),
    ] = None,
    base: BaseName = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's model card: data, scores, adapter, budget, how to load it, limits."""
    with envelope(quiet=quiet):
        answer(lorakit.card(given_or_newest(run), out=out, base=base, force=force), tell, as_json=as_json)


def tell(result: CardResult) -> None:
    """Write where it is, and who can load the run."""
    pairs = [
        ("card", str(result.out)),
        ("scores", "" if result.scored else "none: the run has no scores"),
        ("PEFT", result.peft and f"cannot load it: {result.peft}"),
        ("transformers", result.transformers and f"cannot load it merged: {result.transformers}"),
    ]
    write(facts([(name, value) for name, value in pairs if value]))
