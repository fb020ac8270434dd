"""What the shell completes: recipes, runs, recipe keys and their values, names of methods and tasks.

A person waits for every one of these between two key presses, so nothing heavy is imported: names of methods are those of their files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from glob import escape, glob
from pathlib import Path

import typer

from lorakit.registry import find_registry, named_files

RUNS = "runs/"
OF_REGISTRY = {
    "task.name": "tasks",
    "adapter.method": "methods",
    "adapter.delta": "deltas",
    "adapter.init": "inits",
    "adapter.updates": "updates",
    "search.method": "allocators",
    "search.proxy": "proxies",
    "training.optimizer": "optimizers",
}
"""Recipe key -> the registry whose names are its values."""
BESIDES = {"task.name": ["custom"], "search.method": ["none"]}
WITH_CARD = ("methods", "deltas", "inits", "updates", "optimizers", "combinations", "allocators", "proxies", "tasks")
"""Registries whose names `lorakit show` takes."""


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes and runs that start with what is typed."""
    from lorakit.recipe.load import shipped_recipes

    return [*starting(shipped_recipes(), incomplete), *complete_run(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Run folders that start with what is typed; those in ``runs`` where nothing is."""
    start = RUNS if RUNS.startswith(incomplete) else incomplete
    return sorted(str(Path(path).parent) for path in glob(f"{escape(start)}*/recipe.yaml"))


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """``KEY=`` of recipe keys that start with what is typed; behind a key its values, where these are a few words."""
    from lorakit.recipe.keys import recipe_keys

    given: Iterable[str] = ctx.params.get("overrides") or ()
    *_, before, last = ["", "", *given]
    if (
        incomplete in ("", "=") and last in recipe_keys()
    ):  # bash takes KEY=VALUE for three words, and completes the third
        return values_of(last)
    if last == "=" and before in recipe_keys():
        return starting(values_of(before), incomplete)
    path, equals, typed = incomplete.partition("=")
    if not equals:
        return starting([f"{known}=" for known in recipe_keys()], path)
    if path not in recipe_keys():
        return []
    return [f"{path}={value}" for value in starting(values_of(path), typed)]


def values_of(path: str) -> list[str]:
    """The words that a recipe key takes; none where it takes others than a few."""
    from lorakit.recipe.keys import recipe_keys

    key = recipe_keys()[path]
    if path in OF_REGISTRY:
        return [*BESIDES.get(path, []), *names_in(OF_REGISTRY[path])]
    if key.kind is bool:
        return ["true", "false"]
    return list(key.rule.words) if callable(key.rule.choices) else [*key.rule.choices, *key.rule.words]


def complete_recipe_or_run_or_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """What `lorakit compare` takes: recipes, runs and settings."""
    return [*complete_recipe(incomplete), *(complete_setting(ctx, incomplete) if incomplete else [])]


def complete_task(incomplete: str) -> list[str]:
    """Tasks, own data of the runs in ``runs`` by their name, and run folders."""
    own = {name for path in glob(f"{RUNS}*/task.json") if (name := called(Path(path)))}
    return [*starting([*names_in("tasks"), *sorted(own)], incomplete), *complete_run(incomplete or RUNS)]


def called(path: Path) -> str:
    """What own data are called in a run's task.json; empty for other tasks, and for what cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record.get("called", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def complete_shown(incomplete: str) -> list[str]:
    """What `lorakit show` takes: recipes, runs, recipe keys and sections, and whatever has a card."""
    from lorakit.recipe.keys import recipe_keys, section_keys

    cards = dict.fromkeys(name for registry in WITH_CARD for name in names_in(registry))
    named = starting([*cards, "custom", *section_keys()], incomplete)
    keys = starting(recipe_keys(), incomplete) if "." in incomplete else []
    return list(dict.fromkeys([*complete_recipe(incomplete), *named, *keys]))


def complete_proxy(incomplete: str) -> list[str]:
    """Proxies."""
    return starting(names_in("proxies"), incomplete)


def complete_allocator(incomplete: str) -> list[str]:
    """Allocators."""
    return starting(names_in("allocators"), incomplete)


def complete_combination(incomplete: str) -> list[str]:
    """Ways to combine runs."""
    return starting(names_in("combinations"), incomplete)


def names_in(registry: str) -> list[str]:
    """The names in a registry, of this package alone. Tasks are quick to import, and several are in one file."""
    return find_registry(registry).names() if registry == "tasks" else named_files(registry)


def starting(names: Iterable[str], incomplete: str) -> list[str]:
    """Those of ``names`` that start with what is typed."""
    return [name for name in names if name.startswith(incomplete)]
