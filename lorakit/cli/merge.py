"""``lorakit merge``: fold a run into a plain checkpoint that proves itself first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

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
    from lorakit.workflow.merge import MergeResult


def merge(
    run: NewestRun = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Where the checkpoint goes.")] = None,
    weights: Weights = "last",
    rank: CutRank = None,
    tolerance: Tolerance = 1e-3,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fold a run's adapters into a plain Hugging Face checkpoint."""
    before_imports(quiet=quiet)
    from lorakit.cli.output import listening, say, write, write_json

    with listening(quiet=quiet):
        say("merging, then comparing with the adapted model on real batches", quiet=quiet)
        import lorakit

        result = lorakit.merge(
            given_or_newest(run), out=out, weights=weights, tolerance=tolerance, force=force, rank=rank
        )
    if as_json:
        write_json(result.to_dict())
        return
    from lorakit.reporting.tables import facts

    write(facts(merge_facts(result)))
    say(f"load it with:\n  {result.load_line}", quiet=quiet)


def merge_facts(result: MergeResult) -> list[tuple[str, str]]:
    """What was folded and how far the merged model is from the adapted one, as (name, value) pairs."""
    from lorakit.reporting.tables import count

    pairs = [
        ("folded", f"{result.folded} sites"),
        (
            "proof",
            f"{count(result.rows)} rows: largest logit difference {result.largest_difference:.3g} "
            f"(allowed {result.tolerance:.3g}, largest logit {result.largest_logit:.3g}), {result.flips} labels changed",
        ),
    ]
    if not result.plain:
        pairs.append(
            ("kept beside", f"{len(result.kept)} sites a plain checkpoint cannot hold: {', '.join(result.kept)}")
        )
    pairs.append(("checkpoint", str(result.out)))
    return pairs
