"""``lorakit copy``: a shipped recipe to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import envelope
from lorakit.cli.completion import complete_recipe
from lorakit.cli.options import Force, LabelColumn, Offline, TextColumn, refuse_overwrite
from lorakit.cli.output import next_line, say
from lorakit.errors import UsageError


def copy_recipe(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A shipped recipe, a YAML file, or a file of your own data: then the recipe that lorakit train makes for it.",
            autocompletion=complete_recipe,
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes; missing folders are made.")],
    text: TextColumn = None,
    label: LabelColumn = None,
    force: Force = False,
    offline: Offline = False,
) -> None:
    """Copy a recipe to a file of yours, to edit and train."""
    from lorakit.artifacts.files import write_text
    from lorakit.recipe.load import find_recipe, names_data

    with envelope(offline=offline):
        columns = {"task.text": text, "task.label": label}
        if names_data(recipe):
            from lorakit.recipe.own_data import write_own_data
            from lorakit.tasks.task import name_of_files

            name = f"{name_of_files(recipe)}.yaml"
            content, _ = write_own_data(recipe, {**columns, "run.offline": offline})
        elif any(columns.values()):
            raise UsageError("a recipe has its columns already", hint="leave --text and --label out, and edit the copy")
        else:
            source = find_recipe(recipe)
            name, content = source.name, source.read_text(encoding="utf-8")
        target = file / name if file.is_dir() else file
        refuse_overwrite(target, force=force)
        write_text(target, content)
        say(f"{recipe} is now {target}. Next:\n  {next_line('train', target)}")
