"""The ``lorakit`` command: which commands there are, and how a failure leaves the program.

Nothing heavy is imported here: every command imports what it needs when it runs, so that help and completion are quick.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lorakit.cli.analyze import analyze
from lorakit.cli.card import card
from lorakit.cli.combine import combine
from lorakit.cli.compare import compare
from lorakit.cli.compress import compress
from lorakit.cli.copy import copy_recipe
from lorakit.cli.data import data
from lorakit.cli.doctor import doctor
from lorakit.cli.ensemble import ensemble
from lorakit.cli.eval import evaluate
from lorakit.cli.export import export
from lorakit.cli.import_ import import_adapter
from lorakit.cli.list import list_entries
from lorakit.cli.merge import merge
from lorakit.cli.plan import plan
from lorakit.cli.predict import predict
from lorakit.cli.push import push
from lorakit.cli.quantize import quantize
from lorakit.cli.report import report
from lorakit.cli.search import search
from lorakit.cli.serve import serve
from lorakit.cli.show import show
from lorakit.cli.sweep import sweep
from lorakit.cli.train import train
from lorakit.errors import LorakitError, RunError

# New objects after which Python looks for garbage, of which loading a million of them makes next to none: a fifth of a start's time.
COLLECT_AFTER = 10_000
# A disk that is full, a place that may not be written, is of the wrong kind or has too long a name: not a fault of the program.
FULL, REFUSED = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)
PLACE_ERRORS = (*FULL, *REFUSED, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)

app = typer.Typer(
    name="lorakit",
    help="Fine-tune pretrained transformers for text classification on a small parameter budget, from a YAML recipe.",
    epilog="Start with: lorakit train demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("train", rich_help_panel="Run")(train)
app.command("search", rich_help_panel="Run")(search)
app.command("sweep", rich_help_panel="Run")(sweep)
app.command("eval", rich_help_panel="Run")(evaluate)
app.command("merge", rich_help_panel="Run")(merge)
app.command("predict", rich_help_panel="Run")(predict)
app.command("serve", rich_help_panel="Run")(serve)
app.command("export", rich_help_panel="Exchange")(export)
app.command("card", rich_help_panel="Exchange")(card)
app.command("push", rich_help_panel="Exchange")(push)
app.command("import", rich_help_panel="Exchange")(import_adapter)
app.command("quantize", rich_help_panel="Exchange")(quantize)
app.command("compress", rich_help_panel="Exchange")(compress)
app.command("combine", rich_help_panel="Exchange")(combine)
app.command("ensemble", rich_help_panel="Exchange")(ensemble)
app.command("list", rich_help_panel="Recipes")(list_entries)
app.command("show", rich_help_panel="Recipes")(show)
app.command("copy", rich_help_panel="Recipes")(copy_recipe)
app.command("data", rich_help_panel="Inspect")(data)
app.command("plan", rich_help_panel="Inspect")(plan)
app.command("report", rich_help_panel="Inspect")(report)
app.command("analyze", rich_help_panel="Inspect")(analyze)
app.command("compare", rich_help_panel="Inspect")(compare)
app.command("doctor", rich_help_panel="Inspect")(doctor)


def print_version(wanted: bool) -> None:
    """Print the version and exit, when ``--version`` is given."""
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"lorakit {version('lorakit')}")
        except PackageNotFoundError:
            typer.echo("lorakit (run from its source tree, not installed)")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (of the process, where not given) and give its exit code.

    0 done, 1 failed, 2 asked wrongly, 130 interrupted. A LorakitError becomes one message on standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    gc.set_threshold(COLLECT_AFTER)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="lorakit")
    except LorakitError as error:
        return fail(error)
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        return fail(RunError(error.strerror or str(error), where=str(error.filename or "")))
    except SystemExit as leaving:
        return leave(leaving.code)
    return 0


def fail(error: LorakitError) -> int:
    """Print ``error`` and give its exit code."""
    from lorakit.cli.output import complain

    complain(error)
    return error.exit_code


def leave(code: int | str | None) -> int:
    """The exit code for ``code``; a reader that has gone away (``lorakit list tasks | head -1``) is not a failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it once more as it ends
    return code if isinstance(code, int) else int(code is not None)
