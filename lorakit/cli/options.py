"""Arguments and options that several commands share, and how a RECIPE argument becomes a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from lorakit.cli.completion import complete_recipe, complete_run, complete_setting
from lorakit.cli.output import say
from lorakit.errors import RunError, UsageError

if TYPE_CHECKING:
    from lorakit.recipe.load import LoadedRecipe


RECIPE_HELP = "A shipped recipe (see: lorakit list recipes), a YAML file, a run folder; or a file of texts and labels: csv, parquet ..."
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP, autocompletion=complete_recipe)]
Overrides = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="KEY=VALUE",
        help="Recipe keys to change, e.g. adapter.rank=4.",
        autocompletion=complete_setting,
    ),
]
Seed = Annotated[Optional[int], typer.Option("--seed", help="The same as run.seed=N.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network. The same as run.offline=true.")]
TextColumn = Annotated[
    Optional[str],
    typer.Option(
        "--text", metavar="COLUMN", help="The column of texts in your own data. The same as task.text=COLUMN."
    ),
]
LabelColumn = Annotated[
    Optional[str],
    typer.Option(
        "--label", metavar="COLUMN", help="The column of labels in your own data. The same as task.label=COLUMN."
    ),
]
ModelName = Annotated[
    Optional[str], typer.Option("--model", metavar="NAME", help="A hub name or a folder. The same as model.name=NAME.")
]
BaseName = Annotated[
    Optional[str],
    typer.Option(
        "--base", metavar="NAME", help="What others call the base model, where the run names a folder of this machine."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and the result, nothing else.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what exists already.")]
NewestRun = Annotated[
    Optional[Path],
    typer.Argument(
        metavar="RUN", help="A run folder; by default the newest finished one in runs.", autocompletion=complete_run
    ),
]
Tolerance = Annotated[
    Optional[float],
    typer.Option(
        "--tolerance",
        min=0.0,
        help="The largest difference of logits that is accepted; 1e-3, and more for weights in half precision.",
        show_default=False,
    ),
]
Weights = Annotated[
    Optional[Literal["last", "best"]],
    typer.Option(
        "--weights",
        help="The weights after the last step, or the best on the validation split; what the run's training.select says by default.",
    ),
]

CutRank = Annotated[
    Optional[int],
    typer.Option(
        "--rank",
        metavar="K",
        help="Cut each site to rank K: its best approximation, or of a run of search.method=dylora its first K rank units.",
    ),
]


def open_recipe(
    name: str,
    overrides: Sequence[str] | None,
    *,
    seed: int | None = None,
    offline: bool = False,
    text: str | None = None,
    label: str | None = None,
    model: str | None = None,
) -> LoadedRecipe:
    """The recipe called ``name`` with ``overrides``. Options win over KEY=VALUE, which wins over the file."""
    from lorakit.recipe.load import load_recipe

    settings = as_settings({"run.seed": seed}, text=text, label=label, model=model)
    loaded = load_recipe(name, [*(overrides or []), *settings], offline=offline)
    for line in loaded.told:
        say(line)
    return loaded


def as_settings(
    more: Mapping[str, object] = MappingProxyType({}), *, text: str | None, label: str | None, model: str | None
) -> list[str]:
    """The options that name a key, as KEY=VALUE, of those that are given; more: key -> value, of others."""
    options = {**more, "task.text": text, "task.label": label, "model.name": model}
    return [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]


def given_or_newest(run: Path | None) -> Path:
    """The run folder that was named, or the newest finished one in ``runs``."""
    from lorakit.artifacts.run import newest_run

    return run if run is not None else newest_run(Path("runs"), None).path


def refuse_overwrite(target: Path, *, force: bool) -> None:
    """Refuse a file that exists where ``force`` was not given, and a place where none can be written."""
    if target.is_dir():
        raise UsageError("this is a folder, not a file", where=str(target), hint="the name of a file in it")
    if target.exists() and not force:
        raise UsageError(
            "this file exists already, so nothing was written", where=str(target), hint="another name, or --force"
        )
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "may not be written into" if above.is_dir() else "is not a folder"
        raise RunError(f"cannot be written: {above} {why}", where=str(target), hint="another place")
