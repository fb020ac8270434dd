"""``lorakit copy``: a shipped recipe to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import envelope
from lorakit.cli.options import Force, complete_recipe, refuse_overwrite
from lorakit.cli.output import next_line, say


def copy_recipe(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file.", autocompletion=complete_recipe)
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes; missing folders are made.")],
    force: Force = False,
) -> None:
    """Copy a recipe to a file of yours, to edit and train."""
    from lorakit.artifacts.files import write_text
    from lorakit.recipe.load import find_recipe

    source = find_recipe(recipe)
    target = file / source.name if file.is_dir() else file
    refuse_overwrite(target, force=force)
    with envelope():
        write_text(target, source.read_text(encoding="utf-8"))
        say(f"{recipe} is now {target}. Next:\n  {next_line('train', target)}")
