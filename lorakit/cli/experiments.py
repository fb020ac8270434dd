"""What ``compare`` and ``sweep`` share on the command line: options, how they are passed on, and what is said at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from lorakit.cli.output import console, say, warn, write
from lorakit.errors import RunError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.cli.progress import ProgressHook
    from lorakit.reporting.stats import Summary
    from lorakit.workflow.experiments.compare import Comparison
    from lorakit.workflow.experiments.elsewhere import Submitted
    from lorakit.workflow.experiments.intrinsic import IntrinsicDimension
    from lorakit.workflow.experiments.sweep import Sweep

N = TypeVar("N", int, float)

ENDLESS = 10_000  # columns, more than any table takes

Seeds = Annotated[
    Optional[str],
    typer.Option(
        "--seeds",
        metavar="N,N",
        help="Train everything with each of these; by default compare takes 0,1,2,3,4 and sweep 0,1,2.",
    ),
]
Folder = Annotated[
    Optional[Path],
    typer.Option(
        "--folder",
        help="Where the runs are, as NAME-SEED; several workers may share it. runs/compare or runs/sweep-RECIPE by default.",
        file_okay=False,
    ),
]
Metric = Annotated[Optional[str], typer.Option("--metric", help="Another of the task's metrics to compare by.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for runs that other workers are training.")]
Workers = Annotated[
    Optional[int],
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Train so many runs side by side, on this machine or --on others; by default as many as there are GPUs, or one.",
    ),
]
On = Annotated[
    Optional[str],
    typer.Option(
        "--on",
        metavar="ray|slurm",
        help="Let Ray or Slurm start the workers on its machines, which share the folder; wait here for what they come to.",
    ),
]
SlurmOptions = Annotated[
    Optional[list[str]],
    typer.Option(
        "--slurm-option",
        metavar="KEY=VALUE",
        help="What a job of --on slurm asks for, once for each: gpus_per_node=1, partition=NAME, timeout_min=240, mem_gb=32; "
        "cluster=local starts them here.",
    ),
]
SubmitOnly = Annotated[
    bool,
    typer.Option(
        "--submit-only",
        help="Hand the jobs to Slurm's queue and wait for nothing; the same line without it tells the rest.",
    ),
]
Csv = Annotated[
    Optional[Path],
    typer.Option("--csv", metavar="FILE", help="Also write all runs to this file, one per line.", dir_okay=False),
]


def request(
    seeds: str | None,
    folder: Path | None,
    metric: str | None,
    csv: Path | None,
    *,
    no_wait: bool,
    workers: int | None,
    on: str | None,
    slurm: list[str] | None,
    offline: bool,
    quiet: bool,
) -> dict[str, Any]:
    """The arguments of the Python API that these options stand for. UsageError for a list of seeds that cannot be read."""

    def watch() -> ProgressHook:
        from lorakit.cli.progress import ProgressHook

        return ProgressHook(quiet=quiet)

    return {
        "seeds": whole_numbers(seeds, "--seeds", "seeds", "0,1,2,3,4"),
        "folder": folder,
        "metric": metric,
        "wait": not no_wait,
        "table": csv,
        "offline": offline,
        "workers": workers,
        "on": on,
        "slurm": slurm or [],
        "watch": watch,
    }


def whole_numbers(text: str | None, option: str, noun: str, such_as: str) -> list[int] | None:
    """Numbers with commas between them, each once. UsageError for anything else, with the option and what its numbers are."""
    return numbers(int, text, option, noun, such_as)


def numbers(kind: Callable[[str], N], text: str | None, option: str, noun: str, such_as: str) -> list[N] | None:
    """The same of a kind of numbers."""
    if text is None:
        return None
    valid = f"such as {such_as}"
    try:
        found = [kind(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"'{text}' is not a list of {noun}", where=option, valid=valid) from None
    if len(set(found)) < len(found) or min(found) < 0:
        raise UsageError(f"'{text}' names one of its {noun} twice, or one below 0", where=option, valid=valid)
    return found


def say_the_rest(result: Comparison | Sweep, written: Sequence[Path | None]) -> None:
    """Say what a person should know beside the tables, and which files are ``written``. RunError where trainings failed."""
    for warning in result.warnings:
        warn(warning)
    for path in written:
        if path is not None:
            say(f"wrote {path}")
    say_what_is_not_there(result)


def say_what_is_not_there(result: Comparison | Sweep | IntrinsicDimension) -> None:
    """Say which runs are missing. RunError where trainings failed."""
    from lorakit.workflow.experiments.workers import failures

    for lost in result.missing:
        warn(f"missing: {lost.run}: {lost.why}")
    if result.failed:
        raise RunError(failures(result.failed))


def tell_submitted(result: Submitted) -> None:
    """Write the jobs, and how what they come to is told."""
    write(f"{'not done yet' if result.earlier else 'submitted'}: {', '.join(result.jobs)}")
    write(f"what they say is in {result.logs}")
    write(f"to wait for them, and see the table: {result.again}")


def heading(result: Comparison | Sweep) -> str:
    """``mrpc, f1``: what the table's scores are of."""
    return f"{result.task}, {result.metric}{'' if result.higher_is_better else ' (lower is better)'}"


def too_wide(drawn: Table) -> bool:
    """Whether the table has no room on this terminal, where its numbers would be cut."""
    from rich.measure import Measurement

    out = console()
    return Measurement.get(out, out.options.update(max_width=ENDLESS), drawn).maximum > out.width


def spread(summary: Summary) -> str:
    """``0.7892 ± 0.0031``; of one run its value alone."""
    return f"{summary.mean:.4f}" + (f" ± {summary.sd:.4f}" if summary.n > 1 else "")
