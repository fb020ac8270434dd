"""``lorakit combine``: several runs on one backbone become one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorakit.cli.options import AsJson, Quiet, before_imports
from lorakit.errors import UsageError

if TYPE_CHECKING:
    from lorakit.workflow.combine.combine import CombineResult


def complete_method(incomplete: str) -> list[str]:
    """Ways to combine that start with what is typed."""
    from lorakit.artifacts.combination import combinations

    return [name for name in combinations.names() if name.startswith(incomplete)]


def combine(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Two run folders or more, on one backbone.")],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="linear, concat, svd, task_arithmetic, ties, dare, fisher, regmean or lorahub.",
            autocompletion=complete_method,
        ),
    ] = "linear",
    weights: Annotated[
        Optional[str], typer.Option("--weights", metavar="W,W", help="One for each run; the method's own by default.")
    ] = None,
    rank: Annotated[
        Optional[int],
        typer.Option("--rank", help="Rank of the result; the sum of the runs', for svd the largest, by default."),
    ] = None,
    density: Annotated[
        Optional[float], typer.Option("--density", help="The share of entries that ties (0.2) and dare (0.5) keep.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", help="Training rows of each run that fisher, regmean and lorahub look at.")
    ] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what dare drops, and of the rows that are drawn.")] = 0,
    use: Annotated[str, typer.Option("--use", help="The last weights of each run, or the best.")] = "last",
    out: Annotated[Optional[Path], typer.Option("--out", metavar="RUN", help="The run folder to make.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Combine the adapters of several runs into a run with a plain LoRA."""
    before_imports(quiet=quiet)
    shares = numbers(weights)
    if use not in ("last", "best"):
        raise UsageError(f"there are no '{use}' weights", valid="last, best", hint="--weights takes numbers")
    from lorakit.cli.output import listening, program, say, write, write_json

    with listening(quiet=quiet):
        import lorakit

        result = lorakit.combine(
            runs,
            method=method,
            shares=shares,
            rank=rank,
            density=density,
            rows=rows,
            seed=seed,
            out=out,
            weights=use,
        )
    if as_json:
        write_json(result.to_dict())
        return
    from lorakit.reporting.tables import facts

    write(facts(combine_facts(result)))
    say(f"score it with:\n  {program()} eval {result.task} --run {result.out}", quiet=quiet)


def numbers(text: str | None) -> list[float] | None:
    """Numbers with commas between them. UsageError for anything else."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"--weights '{text}' is not a list of numbers", valid="such as 0.5,0.5") from None


def combine_facts(result: CombineResult) -> list[tuple[str, str]]:
    """What went in, and what came out, as (name, value) pairs."""
    from lorakit.reporting.tables import count

    low, high = result.ranks
    return [
        ("method", result.method),
        *((run, f"weight {weight:.4g}") for run, weight in zip(result.runs, result.shares, strict=True)),
        ("sites", f"{result.sites}, rank {low}" if low == high else f"{result.sites}, ranks {low} to {high}"),
        ("lost by the rank", f"{result.error:.2%} of the combined updates' norm"),
        ("head", result.head),
        ("adapter parameters", count(result.adapter_parameters)),
        ("run", str(result.out)),
    ]
