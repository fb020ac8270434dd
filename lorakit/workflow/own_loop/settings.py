"""What a person says in Python of adapters and of a search, read as a recipe is: the same keys, bounds and messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lorakit.errors import UsageError
from lorakit.recipe.load import LoadedRecipe, put_together
from lorakit.recipe.overlays import Overlay, read_document
from lorakit.recipe.problems import Problems
from lorakit.recipe.schema import AdapterSection, Recipe
from lorakit.recipe.values import written

FOREIGN = {"model.name": "own", "task.name": "rotten_tomatoes"}
"""Keys that a recipe must give, and of which nothing is known here."""
Section = Mapping[str, Any]


def read_settings(call: str, adapter: Section, search: Section | None = None) -> Recipe:
    """The recipe with these keys of ``adapter:`` and ``search:``, its method's usual ones filled in; None counts as not given.

    RecipeError with all that is wrong; each problem says that it stands in ``call``.
    """
    problems = Problems()
    lines = [
        line
        for section, values in (("adapter", adapter), ("search", {"method": "none"} if search is None else search))
        for line in (f"{section}:", *(f"  {n}: {in_yaml(call, n, v)}" for n, v in values.items() if v is not None))
    ]
    said = read_document("\n".join(lines), lambda line: call, problems)
    return put_together(LoadedRecipe(Recipe(), "own", Path(call)), [Overlay(dict(FOREIGN)), said], problems).recipe


def in_yaml(call: str, name: str, value: Any) -> str:
    """A value as a recipe has it. UsageError for what none can have."""
    plain = [*value] if isinstance(value, (tuple, set, frozenset)) else value
    try:
        return written(plain)
    except yaml.YAMLError:
        raise UsageError(f"{name} is a {type(value).__name__}, which no setting is", where=call) from None


def said_of(section: AdapterSection) -> dict[str, Any]:
    """The keys of a section that are not as they always are: reading them again gives the same section."""
    usual = AdapterSection()
    return {name: value for name, value in vars(section).items() if value != getattr(usual, name)}
