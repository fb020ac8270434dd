"""``lorakit import``: a PEFT adapter becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, Offline, Quiet
from lorakit.cli.output import next_line, say, write
from lorakit.reporting.tables import count, facts, ranks

if TYPE_CHECKING:
    from lorakit.workflow.import_peft import ImportResult


def import_adapter(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that PEFT's save_pretrained wrote.")],
    task: Annotated[str, typer.Option("--task", help="What it was trained for (see: lorakit list tasks), or custom.")],
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="KEY=VALUE", help="Recipe keys of the run, e.g. model.name=PATH for the base model."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="RUN", help="The run folder to make.")] = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a run from a PEFT adapter, to use with eval, predict, merge, export, combine and adapter.start."""
    with envelope(offline=offline, quiet=quiet):
        result = lorakit.import_adapter(source, task=task, out=out, overrides=overrides or [], offline=offline)
        answer(result, tell, as_json=as_json)


def tell(result: ImportResult) -> None:
    """Write what was read, and what it became."""
    pairs = [
        ("adapter", f"{result.kind} of PEFT, as method {result.method}"),
        ("model", result.model),
        ("sites", f"{count(result.sites)}, {ranks(*result.ranks)}"),
        ("adapter parameters", count(result.adapter_parameters)),
        ("head", "the adapter's" if result.head else "the base model's own"),
        ("run", str(result.out)),
    ]
    write(facts(pairs))
    say(f"score it with:\n  {next_line('eval', result.task, '--run', result.out)}")
