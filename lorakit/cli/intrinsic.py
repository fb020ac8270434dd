"""``lorakit analyze --intrinsic``: its options, and what it came to as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import lorakit
from lorakit.cli.command import answer
from lorakit.cli.completion import complete_recipe
from lorakit.cli.experiments import numbers, request, say_what_is_not_there, whole_numbers
from lorakit.cli.output import say, write, write_summary
from lorakit.errors import UsageError
from lorakit.reporting.tables import Column, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.reporting.intrinsic import IntrinsicCurve
    from lorakit.workflow.experiments.intrinsic import IntrinsicDimension

Intrinsic = Annotated[
    Optional[str],
    typer.Option(
        "--intrinsic",
        metavar="RECIPE",
        help="Measure the intrinsic dimension of this recipe's task instead: train it in full and in random subspaces of growing "
        "dimension. What stands in RUN's place is KEY=VALUE then.",
        autocompletion=complete_recipe,
    ),
]
Dimensions = Annotated[
    Optional[str],
    typer.Option(
        "--dimensions", metavar="D,D", help="Of the subspaces (--intrinsic); by default 32,128,512,2048,8192."
    ),
]
Kinds = Annotated[
    Optional[str],
    typer.Option(
        "--kinds",
        metavar="said,did",
        help="Subspaces with a scalar for every layer (said), without (did), by default both (--intrinsic).",
    ),
]
Rates = Annotated[
    Optional[str],
    typer.Option(
        "--lr",
        metavar="L,L",
        help="Learning rates of subspaces (--intrinsic), each the best of several on held-out training rows; by default 0.01,0.03,0.1.",
    ),
]
FullRates = Annotated[
    Optional[str],
    typer.Option(
        "--full-lr", metavar="L,L", help="The same of full fine-tuning (--intrinsic); by default 3e-5,1e-4,3e-4."
    ),
]
Seeds = Annotated[
    Optional[str], typer.Option("--seeds", metavar="N,N", help="Of every side (--intrinsic); by default 0,1,2.")
]
Metric = Annotated[
    Optional[str],
    typer.Option("--metric", help="Another of the task's metrics than its first to measure by (--intrinsic)."),
]
Folder = Annotated[
    Optional[Path],
    typer.Option(
        "--folder",
        help="Where the runs are (--intrinsic); several workers may share it. runs/intrinsic-RECIPE by default.",
        file_okay=False,
    ),
]
MeasureWorkers = Annotated[
    Optional[int],
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Train so many runs side by side (--intrinsic); by default as many as there are GPUs, or one.",
    ),
]


@dataclass(frozen=True)
class Options:
    """Those of above, as they were typed."""

    dimensions: str | None
    kinds: str | None
    lr: str | None
    full_lr: str | None
    seeds: str | None
    metric: str | None
    folder: Path | None
    workers: int | None

    def refuse(self) -> None:
        """Raises UsageError for any of them where no measurement is asked for."""
        for name, value in vars(self).items():
            if value is not None:
                raise UsageError("is for --intrinsic RECIPE", where=f"--{name.replace('_', '-')}")


def measure(
    recipe: str, overrides: Sequence[str], options: Options, *, offline: bool, quiet: bool, as_json: bool
) -> None:
    """Measure and tell."""
    how: dict[str, Any] = {"no_wait": False, "on": None, "slurm": None, "offline": offline, "quiet": quiet}
    asked = request(options.seeds, options.folder, options.metric, None, workers=options.workers, **how)
    rates = (("lr", "--lr", options.lr), ("full_lr", "--full-lr", options.full_lr))
    asked |= {
        name: numbers(float, text, option, "rates", "1e-4,3e-4") for name, option, text in rates if text is not None
    }
    asked["dimensions"] = whole_numbers(options.dimensions, "--dimensions", "dimensions", "32,128,512")
    if options.kinds is not None:
        asked["kinds"] = options.kinds.split(",")
    result = lorakit.intrinsic_dimension(recipe, overrides, **asked)
    answer(result, tell, as_json=as_json)
    say_what_is_not_there(result)


def tell(result: IntrinsicDimension) -> None:
    """Write the scores by dimension, the summary, and where the page is."""
    write(score_table(result.curve), "")
    write_summary(result.summary)
    write(f"page  {result.page}")
    say(f"the page is one self-contained file; its figure is {result.figure}")


def score_table(curve: IntrinsicCurve) -> Table:
    """The page's table for a terminal."""
    from lorakit.reporting.intrinsic import intrinsic_table

    found = intrinsic_table(curve)
    columns = [Column(title, itemgetter(place), right=place > 0) for place, title in enumerate(found.columns)]
    return table(found.rows, columns, title=f"{curve.task}, {curve.metric}, means over seeds")
