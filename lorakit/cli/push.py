"""``lorakit push``: a run on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_run
from lorakit.cli.options import AsJson, BaseName, Quiet
from lorakit.cli.output import say, write
from lorakit.reporting.tables import Column, count, counted, facts, table

if TYPE_CHECKING:
    from lorakit.workflow.push import PushResult


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=complete_run)],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repository, which is made where it is not there.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Only its owner can read the repository.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="A merged checkpoint in place of the adapter.")] = False,
    base: BaseName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and send nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also to a repository with files that lorakit did not push.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Send a run to the Hugging Face hub: adapter, card and figures; no rows, and no places of this machine."""
    with envelope(quiet=quiet):
        result = lorakit.push(run, repo, private=private, merged=merged, base=base, dry_run=dry_run, force=force)
        answer(result, tell, as_json=as_json)


def tell(result: PushResult) -> None:
    """Write what went, or would go."""
    columns = [Column("file", lambda each: each[0]), Column("bytes", lambda each: count(each[1]), right=True)]
    write(table(result.files.items(), columns))
    seen = "a private repository" if result.private else "a repository that everybody can read"
    pairs = [
        ("would go to" if result.dry_run else "went to", f"{result.repo}, {seen}"),
        ("in all", f"{counted(len(result.files), 'file')}, {counted(result.bytes, 'byte')}"),
        ("base model", result.base),
        ("PEFT", result.peft and f"cannot load it: {result.peft}"),
        ("commit", result.url),
    ]
    write(facts([(name, value) for name, value in pairs if value]))
    if result.dry_run:
        say("nothing was sent")
