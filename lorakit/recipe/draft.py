"""A recipe before it is built: merged values, some of which may be missing or known to be wrong, for rules to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lorakit.errors import Problem
from lorakit.recipe.keys import recipe_keys
from lorakit.recipe.schema import AdapterSection
from lorakit.recipe.values import UNREADABLE
from lorakit.recipe.vocabulary import methods

METHODS_OWN = ("adapter.targets", "adapter.rank", "adapter.alpha", "adapter.in_full")
"""Keys that the method fills in where a recipe leaves them out."""


class UnreadableError(Exception):
    """A rule asked for a value that is already known to be wrong: the rule has nothing to add."""


@dataclass
class Draft:
    """The merged values of a recipe before it is built; ``where`` finds the place of a key."""

    values: dict[str, Any]
    where: Callable[[str], str]

    def __getitem__(self, path: str) -> Any:
        value = self.values.get(path, recipe_keys()[path].default)
        if value is UNREADABLE:
            raise UnreadableError(path)
        return self.usual(path) if value is None and path in METHODS_OWN else value

    def usual(self, path: str) -> Any:
        """The method's own value of a key that the recipe leaves to it."""
        name = self.values.get("adapter.method", recipe_keys()["adapter.method"].default)
        if name is UNREADABLE or name not in methods():
            raise UnreadableError("adapter.method")
        return getattr(methods().get(name).fill(AdapterSection(method=name)), path.partition(".")[2])

    def changed(self, path: str) -> bool:
        """Whether ``path`` has a readable value other than its default."""
        default = recipe_keys()[path].default
        return self.values.get(path, default) not in (default, UNREADABLE)

    def problem(self, what: str, path: str, valid: str = "", hint: str = "") -> Problem:
        """A problem at the place of ``path``."""
        return Problem(what, self.where(path), path, valid, hint)
