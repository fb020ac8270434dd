"""``lorakit predict``: a label for every row of a file or line of standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import lorakit
from lorakit.cli.command import envelope
from lorakit.cli.completion import complete_run
from lorakit.cli.options import AsJson, CutRank, Force, Quiet, Weights, refuse_overwrite
from lorakit.cli.output import console, say, write_json

if TYPE_CHECKING:
    from lorakit.workflow.predict import Prediction

    OnAnswer = Callable[[Prediction], None]


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder, or one that lorakit merge wrote.", autocompletion=complete_run
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help="A csv, tsv, json, jsonl or parquet file with the run's column of texts, packed or not, or a txt file with a text"
            " per line (two with a tab between them for a task of pairs); - reads such lines from standard input.",
        ),
    ],
    text: Annotated[
        Optional[str], typer.Option("--text", metavar="COLUMN", help="The column of texts, where its name is another.")
    ] = None,
    text_pair: Annotated[
        Optional[str], typer.Option("--text-pair", metavar="COLUMN", help="The same of the second texts of pairs.")
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write a .csv, .jsonl or .parquet file: FILE's columns, then label, probability and p(LABEL) of every label.",
        ),
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Print the probability of every label.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows computed at once.")] = 32,
    abstain: Annotated[
        Optional[float],
        typer.Option(
            "--abstain", metavar="BELOW", min=0.0, max=1.0, help="No label where the probability is below this."
        ),
    ] = None,
    threshold: Annotated[
        Optional[list[str]],
        typer.Option(
            "--threshold",
            metavar="LABEL=P",
            help="Answer the label only where its probability is P or more, else the next best label that reaches its own. Repeatable.",
        ),
    ] = None,
    weights: Weights = None,
    rank: CutRank = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Label every row of a file: print its label and probability, with a tab between them, or write them into a file."""
    from lorakit.workflow.thresholds import read_thresholds

    with envelope(quiet=quiet):
        if out is not None:
            refuse_overwrite(out, force=force)
        answers: list[dict[str, Any]] = []
        with listener(answers, proba=proba, as_json=as_json, out=out, quiet=quiet) as on_answer:
            result = lorakit.predict_file(
                run,
                source,
                text=text,
                text_pair=text_pair,
                out=out,
                batch_size=batch_size,
                abstain=abstain,
                thresholds=read_thresholds(threshold or []) or None,
                weights=weights,
                rank=rank,
                on_answer=on_answer,
            )
        if as_json:
            write_json(result.to_dict() | ({} if out else {"predictions": answers}))
        if abstain is not None or threshold:
            reasons = [] if abstain is None else [f"below {abstain:g}"]
            why = " or ".join([*reasons, *(["below every threshold"] if threshold else [])])
            none = result.abstained + result.without
            say(f"{none:,} of {result.rows:,} rows have no label: their probability is {why}")
        if out is not None:
            say(f"{result.rows:,} rows labelled: {out}")


@contextmanager
def listener(
    answers: list[dict[str, Any]], *, proba: bool, as_json: bool, out: Path | None, quiet: bool
) -> Iterator[OnAnswer]:
    """What hears of each answer: it is kept for JSON, printed, or counted on a terminal's bar while a file is written."""

    def keep(answer: Prediction) -> None:
        answers.append(answer.to_dict())

    def show(answer: Prediction) -> None:
        print(line(answer, proba=proba), flush=True)

    hear = show if out is None and not as_json else keep if out is None else None
    if quiet or not sys.stderr.isatty() or (hear is show and sys.stdout.isatty()):
        yield hear or (lambda answer: None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("labelling"), BarColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*columns, console=console(talk=True), transient=True) as progress:
        bar = progress.add_task("labelling", total=None)

        def count(answer: Prediction) -> None:
            progress.advance(bar)
            if hear is not None:
                hear(answer)

        yield count


def line(answer: Prediction, *, proba: bool) -> str:
    """``label TAB probability``, and with ``proba`` ``TAB name=probability`` for every label; an empty label is none.

    Of several labels the probabilities stand in their order, with semicolons between them.
    """
    parts = [answer.label]
    if answer.probability is not None:
        parts.append(f"{answer.probability:.4f}")
    elif answer.probabilities is not None:
        parts.append(";".join(f"{answer.probabilities[name]:.4f}" for name in answer.labels))
    if proba and answer.probabilities:
        parts += [f"{name}={chance:.4f}" for name, chance in answer.probabilities.items()]
    return "\t".join(parts)
