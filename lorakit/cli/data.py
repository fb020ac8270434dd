"""``lorakit data``: what a file of texts and labels is like, before anything is trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_recipe
from lorakit.cli.options import (
    AsJson,
    LabelColumn,
    ModelName,
    Offline,
    Overrides,
    Quiet,
    TextColumn,
    open_recipe,
)
from lorakit.cli.output import warn, write
from lorakit.reporting.tables import Column, baseline_facts, count, facts, percent, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.workflow.inspect_data import DataReport


def data(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A csv, tsv, json, jsonl or parquet file, a folder of them, hub:OWNER/NAME; or a recipe.",
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Overrides = None,
    text: TextColumn = None,
    label: LabelColumn = None,
    model: ModelName = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Look at data before training: classes, duplicates, lengths, overlap, and what simple classifiers get."""
    with envelope(offline=offline, quiet=quiet):
        loaded = open_recipe(source, overrides, offline=offline, text=text, label=label, model=model)
        answer(lorakit.inspect_data(loaded), tell, as_json=as_json)


def tell(result: DataReport) -> None:
    """Write what the data is like, the splits side by side."""
    columns = [
        ("texts", " and ".join(result.text)),
        ("labels", f"{result.label}, {'a number to predict' if result.regression else several(result)}"),
        ("from", result.origin),
        ("scripts", ", ".join(f"{name} {percent(share)}" for name, share in result.scripts.items()) or "no letters"),
    ]
    classes = [] if result.regression else [class_table(result)]
    write(facts(columns), split_table(result), *classes, facts(baseline_facts(result.baselines)))
    for remark in result.remarks:
        warn(remark)


def several(result: DataReport) -> str:
    """How many classes there are."""
    return f"{count(len(result.splits[0].classes))} classes"


def split_table(result: DataReport) -> Table:
    """A line a split: rows, duplicates, overlap, tokens."""
    return table(
        result.splits,
        [
            Column("split", lambda split: split.name),
            Column("rows", lambda split: count(split.rows), right=True),
            Column("same text", lambda split: count(split.duplicates), right=True),
            Column("two labels", lambda split: count(split.conflicts), right=True),
            Column("in train", lambda split: "" if split.name == "train" else count(split.overlap), right=True),
            Column("median", lambda split: count(split.lengths.median), right=True),
            Column("95 %", lambda split: count(split.lengths.most), right=True),
            Column("cut", lambda split: count(split.lengths.cut), right=True),
        ],
        title=f"rows, and their tokens (at most {result.splits[0].lengths.kept})",
    )


def class_table(result: DataReport) -> Table:
    """A line a class: its rows in each split that has labels."""
    splits = [split for split in result.splits if split.labelled]
    return table(
        list(splits[0].classes),
        [
            Column("class", lambda label: label),
            *(
                Column(split.name, lambda label, split=split: count(split.classes[label]), right=True)  # type: ignore[misc]
                for split in splits
            ),
        ],
        title="rows of each class",
    )
