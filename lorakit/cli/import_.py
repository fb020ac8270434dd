"""``lorakit import``: a PEFT adapter becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from lorakit.cli.options import AsJson, Offline, Quiet, before_imports

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
    """Make a run of a PEFT adapter, for eval, predict, merge, export, combine and adapter.start."""
    before_imports(offline=offline, quiet=quiet)
    from lorakit.cli.output import listening, next_line, say, write, write_json

    with listening(quiet=quiet):
        import lorakit

        result = lorakit.import_adapter(source, task=task, out=out, overrides=overrides or [], offline=offline)
    if as_json:
        write_json(result.to_dict())
        return
    from lorakit.reporting.tables import facts

    write(facts(import_facts(result)))
    say(f"score it with:\n  {next_line('eval', result.task, '--run', result.out)}", quiet=quiet)


def import_facts(result: ImportResult) -> list[tuple[str, str]]:
    """What was read, and what it became, as (name, value) pairs."""
    from lorakit.reporting.tables import count

    low, high = result.ranks
    return [
        ("adapter", f"{result.kind} of PEFT, as method {result.method}"),
        ("model", result.model),
        ("sites", f"{result.sites}, rank {low}" if low == high else f"{result.sites}, ranks {low} to {high}"),
        ("adapter parameters", count(result.adapter_parameters)),
        ("head", "the adapter's" if result.head else "the base model's own"),
        ("run", str(result.out)),
    ]
