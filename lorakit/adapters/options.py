"""Options: what is set for one parametrisation, one allocator or one training update alone, and how recipes' texts become values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lorakit.errors import Problem, RecipeError, nearest

Options = Mapping[str, Any]
"""Option -> value, of those that are given."""
NO_OPTIONS: Options = MappingProxyType({})


@dataclass(frozen=True)
class Option:
    """One option. Its type is that of ``default``."""

    default: bool | int | float | str
    """Its value where a recipe gives none."""
    doc: str
    """What it is, for `lorakit show`."""
    low: float | None = None
    """The smallest accepted number."""
    high: float | None = None
    """The largest accepted number."""
    above: float | None = None
    """The largest number that is too small."""
    below: float | None = None
    """The smallest number that is too large."""
    choices: tuple[str, ...] = ()
    """The accepted words."""

    def read(self, text: str) -> bool | int | float | str | None:
        """The value as the option's type, or None where it is not one."""
        if isinstance(self.default, bool):
            return {"true": True, "false": False}.get(text.lower())
        if isinstance(self.default, str):
            return text if not self.choices or text in self.choices else None
        try:
            value = type(self.default)(text)
        except ValueError:
            return None
        inside = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return value if inside else None

    def valid(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return ", ".join(self.choices)
        noun = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(self.default)]
        limits = {"at least": self.low, "above": self.above, "at most": self.high, "below": self.below}
        bounds = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        return f"{noun} {bounds}".rstrip()


def with_defaults(known: Mapping[str, Option], given: Options) -> dict[str, Any]:
    """The value of every option: as ``given``, its default where it is not."""
    return {name: given.get(name, option.default) for name, option in known.items()}


def read_known(known: Mapping[str, Option], given: Mapping[str, str], key: str) -> tuple[dict[str, Any], list[Problem]]:
    """Those of ``given`` that are ``known`` as their types, and what cannot be read; key: where the recipe gives them."""
    read = {name: known[name].read(str(text)) for name, text in given.items() if name in known}
    problems = [
        Problem(f"{name}: {given[name]} cannot be used here", key=key, valid=known[name].valid())
        for name, value in read.items()
        if value is None
    ]
    return {name: value for name, value in read.items() if value is not None}, problems


def read_settings(owner: str, known: Mapping[str, Option], given: Mapping[str, str], key: str) -> dict[str, Any]:
    """The value of every option that ``owner`` has, its default where it is not ``given`` in the recipe's ``key``.

    Raises RecipeError with all names and values that it does not have.
    """
    problems = [
        Problem(
            f"{owner} has no option '{name}'",
            key=key,
            valid=", ".join(known) or "it has none",
            hint=nearest(name, list(known)),
        )
        for name in given
        if name not in known
    ]
    values, wrong = read_known(known, given, key)
    if problems or wrong:
        raise RecipeError([*problems, *wrong])
    return with_defaults(known, values)
