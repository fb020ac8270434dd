"""``lorakit combine``: several runs on one backbone become one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_combination, complete_run
from lorakit.cli.options import AsJson, Quiet
from lorakit.cli.output import next_line, say, write
from lorakit.errors import UsageError
from lorakit.reporting.tables import count, facts, ranks

if TYPE_CHECKING:
    from lorakit.workflow.combine.combine import CombineResult


def combine(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Two run folders or more, on one backbone.", autocompletion=complete_run),
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="linear, concat, svd, task_arithmetic, ties, dare, dare_ties, fisher, regmean or lorahub.",
            autocompletion=complete_combination,
        ),
    ] = "linear",
    coefficients: Annotated[
        Optional[str],
        typer.Option(
            "--coefficients",
            metavar="C,C",
            help="How much each run counts, a number for each, such as 0.7,0.3; by default the method's own.",
        ),
    ] = None,
    rank: Annotated[
        Optional[int],
        typer.Option(
            "--rank", help="The rank of the result; by default the sum of the runs' ranks, for svd the largest."
        ),
    ] = None,
    density: Annotated[
        Optional[float],
        typer.Option("--density", help="The share of entries that ties (0.2), dare and dare_ties (0.5) keep."),
    ] = None,
    option: Annotated[
        Optional[list[str]],
        typer.Option(
            "--option", metavar="NAME=VALUE", help="A setting of the method alone: fisher has labels and normalise."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", help="Training rows of each run that fisher, regmean and lorahub look at.")
    ] = 64,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Decides what dare drops, and which training rows are looked at.")
    ] = 0,
    weights: Annotated[
        Optional[str],
        typer.Option(
            "--weights",
            metavar="last|best",
            help="Of each run the weights after the last step, or the best on the validation split; by default what its recipe selects.",
        ),
    ] = None,
    use: Annotated[Optional[str], typer.Option("--use", hidden=True)] = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="RUN", help="The run folder to make.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Combine the adapters of several runs into a run with a plain LoRA."""
    if use is not None:
        raise UsageError("--use is now called --weights", hint=f"--weights {use}")
    if weights not in (None, "last", "best"):
        raise UsageError(
            f"there are no '{weights}' weights in a run",
            where="--weights",
            valid="last, best",
            hint="--coefficients for how much each run counts, which was called --weights before",
        )
    numbers = read_numbers(coefficients)
    with envelope(quiet=quiet):
        result = lorakit.combine(
            runs,
            method=method,
            coefficients=numbers,
            rank=rank,
            density=density,
            options=read_options(option or []),
            rows=rows,
            seed=seed,
            weights=weights,
            out=out,
        )
        answer(result, tell, as_json=as_json)


def read_numbers(text: str | None) -> list[float] | None:
    """Numbers with commas between them. UsageError for anything else."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(
            f"'{text}' is not a list of numbers", where="--coefficients", valid="such as 0.5,0.5"
        ) from None


def read_options(given: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` each. UsageError for anything else, and for two values of one name."""
    options: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"'{text}' sets nothing", where="--option", valid="NAME=VALUE, such as labels=own")
        if name in options:
            raise UsageError(f"{name} is given twice", where="--option", valid="one value")
        options[name] = value
    return options


def tell(result: CombineResult) -> None:
    """Write what went in, and what came out."""
    pairs = [
        ("method", result.method),
        *((run, f"coefficient {value:.4g}") for run, value in zip(result.runs, result.coefficients, strict=True)),
        ("sites", f"{count(result.sites)}, {ranks(*result.ranks)}"),
        ("lost by the rank", f"{result.error:.2%} of the combined updates' norm"),
        ("head", result.head),
        ("adapter parameters", count(result.adapter_parameters)),
        ("run", str(result.out)),
    ]
    write(facts(pairs))
    say(f"score it with:\n  {next_line('eval', result.task, '--run', result.out)}")
