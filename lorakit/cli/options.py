"""Arguments and options that several commands share, and how a RECIPE argument becomes a recipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from lorakit.errors import RunError, UsageError

if TYPE_CHECKING:
    from lorakit.recipe.load import LoadedRecipe


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes that start with what is typed."""
    from lorakit.recipe.load import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


RECIPE_HELP = "A shipped recipe (see: lorakit list recipes), a YAML file, or a run folder."
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP, autocompletion=complete_recipe)]
Overrides = Annotated[
    Optional[list[str]],
    typer.Argument(metavar="KEY=VALUE", help="Recipe keys set from here, e.g. adapter.rank=4."),
]
Seed = Annotated[Optional[int], typer.Option("--seed", help="The same as run.seed=N.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network. The same as run.offline=true.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no talk; warnings still show.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
NewestRun = Annotated[
    Optional[Path], typer.Argument(metavar="RUN", help="A run folder; the newest in runs by default.")
]
Tolerance = Annotated[
    float,
    typer.Option("--tolerance", min=0.0, help="The largest logit difference that is accepted, in fp32 logits."),
]
Weights = Annotated[
    Literal["last", "best"], typer.Option("--weights", help="The last weights, or the best on the validation split.")
]

CutRank = Annotated[
    Optional[int],
    typer.Option(
        "--rank",
        metavar="K",
        help="The first K rank units of each site alone: what a run of search.method=dylora is for.",
    ),
]


def open_recipe(
    name: str, overrides: Sequence[str] | None, *, seed: int | None = None, offline: bool = False
) -> tuple[LoadedRecipe, Path | None]:
    """The recipe called ``name`` with ``overrides``, and its run folder where ``name`` is one (else None).

    Options win over KEY=VALUE, which wins over the file. Raises RecipeError or UsageError that names everything wrong.
    """
    from lorakit.recipe.load import load_recipe

    settings = list(overrides or [])
    if seed is not None:
        settings.append(f"run.seed={seed}")
    if offline:
        settings.append("run.offline=true")
    folder = Path(name)
    if not folder.is_dir():
        return load_recipe(name, settings), None
    if not (folder / "recipe.yaml").is_file():
        raise UsageError("this folder is not a run: it has no recipe.yaml", where=name, hint="lorakit list recipes")
    return load_recipe(str(folder / "recipe.yaml"), settings), folder


def given_or_newest(run: Path | None) -> Path:
    """The run folder that was named, or the newest in ``runs``."""
    from lorakit.artifacts.run import newest_run

    return run if run is not None else newest_run(Path("runs"), None).path


def before_imports(*, offline: bool = False, quiet: bool = False) -> None:
    """Tell the Hugging Face libraries, which read this as they are imported, what the person wants.

    ``offline`` switches them off the network too. Their own progress bars are for terminals, and not for ``quiet`` ones.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # those of transformers as well
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def refuse_overwrite(target: Path, *, force: bool) -> None:
    """Refuse a file that exists where ``force`` was not given, and a place where none can be written."""
    if target.is_dir():
        raise UsageError("this is a folder, and a file is to be written", where=str(target), hint="another name")
    if target.exists() and not force:
        raise UsageError("this exists already, nothing was written", where=str(target), hint="another name, or --force")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "may not be written into" if above.is_dir() else "is not a folder"
        raise RunError(f"cannot be written: {above} {why}", where=str(target), hint="another place")
