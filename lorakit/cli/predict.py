"""``lorakit predict``: a label for every line of a file or of standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, CutRank, Quiet, Weights
from lorakit.errors import DataError


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one that lorakit merge wrote.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help="One text per line, or two with a tab between them for a task of pairs; - reads standard input.",
        ),
    ],
    weights: Weights = "last",
    rank: CutRank = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Label every line of a file: print the label and its probability, with a tab between them."""
    with envelope(quiet=quiet):
        lines = texts(source)
        predictions = lorakit.predict(run, lines, weights=weights, rank=rank)
        if not predictions:
            raise DataError("there is no line to label", where="standard input" if source == "-" else source)
        rows = [{"text": each.text, "label": each.label, "probability": each.probability} for each in predictions]
        answer({"run": str(run), "predictions": rows}, tell, as_json=as_json)


def tell(result: dict[str, Any]) -> None:
    """Write a line for each text."""
    for row in result["predictions"]:
        probability = "" if row["probability"] is None else f"\t{row['probability']:.4f}"
        sys.stdout.write(f"{row['label']}{probability}\n")


def texts(source: str) -> Iterator[str | tuple[str, str]]:
    """The texts of a file, or of standard input for ``-``, read line by line; a tab makes a pair.

    Raises DataError at once where the file is missing or a folder, and while reading where it is not UTF-8.
    """
    if source == "-":
        return pairs(sys.stdin, "standard input")
    path = Path(source)
    if not path.is_file():
        raise DataError("there is no such file", where=source, valid="a text file, or - for standard input")
    return pairs(file_lines(path), source)


def file_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with a byte order mark or without."""
    with path.open(encoding="utf-8-sig") as lines:
        yield from lines


def pairs(lines: Iterable[str], where: str) -> Iterator[str | tuple[str, str]]:
    """Each line without its end, cut at its first tab where it has one. Raises DataError on bytes that are no text."""
    try:
        for line in lines:
            first, tab, second = line.rstrip("\r\n").partition("\t")
            yield (first, second) if tab else first
    except UnicodeDecodeError as error:
        raise DataError("this is not UTF-8 text", where=where, hint="convert the file to UTF-8") from error
