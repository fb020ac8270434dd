"""The keys of a recipe as data, read off the dataclasses: for messages, for `lorakit show`, for reading YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lorakit.recipe.schema import MISSING, Recipe, Rule

NOUNS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Key:
    """One key of the recipe.

    path: ``adapter.rank``; kind: the type of the value, or of each item; shape: whether it is one value, a list of them or a
    mapping from names to them; optional: whether null is accepted; default: its value where nobody gives one; rule: its
    documentation, choices and bounds.
    """

    path: str
    kind: type
    shape: Literal["one", "list", "mapping"]
    optional: bool
    default: Any
    rule: Rule

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit(".", 1)[-1]

    @property
    def mandatory(self) -> bool:
        """Whether every recipe must give it."""
        return bool(self.default == MISSING)

    @property
    def choices(self) -> Sequence[str]:
        """The accepted words, or () where any value of the type will do. Registered names are looked up only now."""
        given: Sequence[str] | Callable[[], Sequence[str]] = self.rule.choices
        return given() if callable(given) else given

    def bounds(self) -> str:
        """The range in words: ``at least 0 and below 1``; empty where there is none."""
        rule = self.rule
        limits = {"at least": rule.low, "above": rule.above, "at most": rule.high, "below": rule.below}
        return " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)

    def as_mapping(self) -> Key:
        """The key as it is where a mapping is written in place of a word."""
        return replace(self, kind=self.rule.mapping or self.kind, shape="mapping", rule=replace(self.rule, choices=()))

    def valid(self) -> str:
        """What is accepted, in words: type and bounds, choices or pattern."""
        if self.choices:
            item = ", ".join(self.choices)
        elif self.rule.pattern:
            item = self.rule.pattern[1]
        elif self.kind is str:
            item = self.rule.doc
        else:
            item = " ".join(part for part in (NOUNS[self.kind], self.bounds()) if part)
            item = ", or ".join([item, *self.rule.words])
        if self.shape == "list":
            item = f"a list of: {item}"
        elif self.shape == "mapping":
            item = f"a mapping from names to {item}"
        elif self.rule.mapping is not None:
            item = f"{item}, or {self.as_mapping().valid()}"
        return f"{item}; or null" if self.optional else item


def read_key(path: str, hint: Any, default: Any, rule: Rule) -> Key:
    """The Key of one dataclass field from its type hint: ``int``, ``list[str]`` or ``dict[str, int]``, each maybe Optional.

    ``Any`` is a word or, as the rule says, a mapping; of a union the first is the kind, beside which the rule may have words.
    """
    arguments = get_args(hint)
    optional = NoneType in arguments
    if get_origin(hint) is Union:
        hint, arguments = arguments[0], get_args(arguments[0])
    if get_origin(hint) is list:
        return Key(path, arguments[0], "list", optional, default, rule)
    if get_origin(hint) is dict:
        return Key(path, arguments[1], "mapping", optional, default, rule)
    return Key(path, str if hint is Any else hint, "one", optional, default, rule)


@cache
def recipe_keys() -> dict[str, Key]:
    """Every key by its path, in the order of the schema."""
    keys = {}
    for section, dataclass_type in get_type_hints(Recipe).items():
        hints = get_type_hints(dataclass_type)
        for entry in fields(dataclass_type):
            default = entry.default if entry.default_factory is NO_DEFAULT else entry.default_factory()
            path = f"{section}.{entry.name}"
            keys[path] = read_key(path, hints[entry.name], default, entry.metadata["rule"])
    return keys


@cache
def section_keys() -> dict[str, tuple[str, ...]]:
    """The names of each section's keys, by section, in the order of the schema."""
    names: dict[str, tuple[str, ...]] = {}
    for path in recipe_keys():
        section, name = path.split(".")
        names[section] = (*names.get(section, ()), name)
    return names


def key_values(recipe: Recipe) -> dict[str, Any]:
    """``section.key`` -> value, of every key."""
    sections = asdict(recipe)
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def plain_values(recipe: Recipe) -> dict[str, int | float | bool | str]:
    """The same as numbers and text, as trackers take it: the entries of a mapping have keys of their own."""
    flat: dict[str, Any] = {}
    for path, value in key_values(recipe).items():
        flat |= {f"{path}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {path: value}
    return {path: value if isinstance(value, (int, float, bool, str)) else str(value) for path, value in flat.items()}
