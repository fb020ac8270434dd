"""``lorakit show KEY``: a recipe key, or all keys of a section; and ``lorakit show custom``: a task of your own data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lorakit.cli.command import answer
from lorakit.cli.output import write
from lorakit.recipe.keys import NOUNS, Key, recipe_keys, section_keys
from lorakit.recipe.schema import CUSTOM, MISSING, Recipe
from lorakit.recipe.values import written
from lorakit.reporting.tables import Column, facts, table

if TYPE_CHECKING:
    from rich.table import Table

OWN = f"{CUSTOM}: "  # how the documentation of a key begins that is for own data alone
QUICK = """\
Without a recipe, columns and settings are guessed, and said:

    lorakit data reviews.csv            what is in it
    lorakit train reviews.csv           a classifier; --text and --label name the columns
    lorakit copy reviews.csv own.yaml   the recipe that is made for it, to edit"""
EXAMPLE = """\
task:
  name: custom
  train: reviews.csv         # review,verdict: a header, then rows; or tsv, jsonl, parquet, a folder of them, hub:OWNER/NAME
  text: review
  label: verdict
  validation_fraction: 0.2   # or validation: another file
  metric: macro_f1"""


def is_key(name: str) -> bool:
    """Whether ``name`` is a recipe key, a section of the recipe, or the task of own data."""
    return name in recipe_keys() or name in section_keys() or name == CUSTOM


def show_key(name: str, *, as_json: bool) -> None:
    """Print what ``name`` is: a key's card, or the table of the keys of a section or of own data."""
    if name in recipe_keys():
        answer(
            described(recipe_keys()[name]),
            lambda card: write(f"{name} (recipe key)\n", facts(lines(card))),
            as_json=as_json,
        )
        return
    keys = own_keys() if name == CUSTOM else [recipe_keys()[f"{name}.{key}"] for key in section_keys()[name]]
    cards = {"name": name, "keys": [described(key) for key in keys]}
    answer(cards, lambda _: write(*(own_data(keys) if name == CUSTOM else section(name, keys))), as_json=as_json)


def own_keys() -> list[Key]:
    """The keys of ``task`` that are for own data, then those that are of use for it too."""
    task = [key for path, key in recipe_keys().items() if path.startswith("task.") and key.name not in ("name", "data")]
    return sorted(task, key=lambda key: not key.rule.doc.startswith(OWN))


def described(key: Key) -> dict[str, Any]:
    """What is known of a key, ready for JSON."""
    kind = {"one": "{}", "list": "a list, each {}", "mapping": "a mapping from names to {}"}[key.shape]
    return {
        "key": key.path,
        "meaning": key.rule.doc,
        "type": ", or ".join([kind.format(NOUNS[key.kind]), *key.rule.words, *(["null"] if key.optional else [])]),
        "bounds": key.bounds(),
        "choices": list(key.choices),
        "pattern": key.rule.pattern[1] if key.rule.pattern else "",
        "default": None if key.mandatory else key.default,
        "mandatory": key.mandatory,
        "other_names": list(key.rule.also),
    }


def lines(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The card for people, without what there is nothing to say of."""
    pairs = [
        ("meaning", card["meaning"]),
        ("type", card["type"]),
        ("bounds", card["bounds"]),
        ("choices", ", ".join(card["choices"])),
        ("form", card["pattern"]),
        ("default", "none: every recipe gives it" if card["mandatory"] else written(card["default"])),
        ("elsewhere called", ", ".join(card["other_names"])),
    ]
    return [(name, value) for name, value in pairs if value]


def section(name: str, keys: Sequence[Key]) -> list[str | Table]:
    """A section of the recipe."""
    kind = next(entry for entry in dataclasses.fields(Recipe) if entry.name == name).default_factory
    doc = str(getattr(kind, "__doc__", ""))
    return [f"{name} (section of the recipe): {doc}\n", key_table(keys, section=name)]


def own_data(keys: Sequence[Key]) -> list[str | Table]:
    """How own data is learnt: the shortest way, a recipe, the keys."""
    return [
        f"{CUSTOM} (task): your own texts and labels\n\n{QUICK}\n\nIn a recipe:\n",
        "\n".join(f"    {line}" for line in EXAMPLE.splitlines()) + "\n",
        key_table(keys, section="task"),
    ]


def key_table(keys: Sequence[Key], *, section: str) -> Table:
    """A line a key."""
    columns = [
        Column("key", lambda key: f"{section}.{key.name}"),
        Column("default", lambda key: "" if key.default == MISSING else written(key.default)),
        Column("meaning", lambda key: key.rule.doc.removeprefix(OWN)),
    ]
    return table(keys, columns)
