"""``lorakit show``: a recipe with every key explained, or the card of a method, update, combination, proxy or task."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from lorakit.cli.method_card import show_method
from lorakit.cli.options import AsJson, Overrides, complete_recipe, open_recipe
from lorakit.errors import UsageError, nearest

if TYPE_CHECKING:
    from lorakit.recipe.load import LoadedRecipe
    from lorakit.registry import Registry

KEY_INDENT = 2  # spaces before a key in a resolved recipe; sections have none, entries of a mapping more
WIDEST_VALUE = 48  # columns up to which the comments are lined up
OPTIONS_KEY = {
    "allocator": "search.options",
    "proxy": "search.proxy_options",
    "training update": "adapter.update_options",
}
"""What is registered -> where a recipe gives its options."""


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A recipe (shipped, file or run folder), a method, an update, a combination, a proxy or a task.",
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Overrides = None,
    model: Annotated[
        Optional[str],
        typer.Option("--model", help="A method's card: the model to count parameters on. Where not given: the demo's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe with every key explained, or the card of a method, update, combination, proxy or task."""
    from lorakit.cli.output import write, write_json
    from lorakit.recipe.load import shipped_recipes
    from lorakit.registry import find_registry

    methods, allocators = find_registry("methods"), find_registry("allocators")
    if model is not None and name not in methods:
        raise UsageError(f"--model goes with the card of a method, and '{name}' is none", hint="leave it out")
    carded = any(name in known for known in card_registries())
    if name in shipped_recipes() or Path(name).suffix in (".yaml", ".yml") or (Path(name).exists() and not carded):
        loaded, _ = open_recipe(name, overrides)
        if as_json:
            write_json(asdict(loaded.recipe))
        else:
            write(explained(loaded))
        return
    if overrides:
        raise UsageError(f"KEY=VALUE changes a recipe, and '{name}' is none", valid="lorakit show RECIPE KEY=VALUE")
    if name in methods:
        show_method(name, model, as_json=as_json)
        if not as_json:
            write(*(f"\n{card(find_registry('updates'), update)}" for update in methods.get(name).updates))
            if name in allocators:
                write(f"\n{card(allocators, name)}")
        return
    cards = [card(registry, name) for registry in card_registries() if name in registry]
    if not cards:
        known = [*shipped_recipes(), *(entry for registry in card_registries() for entry in registry.names())]
        raise UsageError(
            f"there is no recipe, method, update, combination, proxy or task called '{name}'",
            valid=", ".join(known),
            hint=nearest(name, known) or "lorakit list methods",
        )
    if as_json:
        write_json({"name": name, "cards": cards})
    else:
        write("\n\n".join(cards))


def explained(loaded: LoadedRecipe) -> str:
    """The resolved recipe as YAML, a comment behind every key; it can be trained as it is."""
    from lorakit.recipe.keys import recipe_keys

    lines: list[tuple[str, str]] = []
    section = key = ""
    for line in loaded.to_yaml().splitlines():
        indent, name = len(line) - len(line.lstrip()), line.partition(":")[0].strip(" '")
        doc = ""
        if indent == 0:
            section = name
        elif indent == KEY_INDENT:
            key = f"{section}.{name}"
            doc = recipe_keys()[key].rule.doc
        else:
            doc = option_doc(loaded, key, name)
        lines.append((line, doc))
    width = min(max(len(text) for text, doc in lines if doc), WIDEST_VALUE)
    return "\n".join(f"{text:<{width}}  # {doc}" if doc else text for text, doc in lines)


def option_doc(loaded: LoadedRecipe, key: str, name: str) -> str:
    """What an option of the recipe's allocator or proxy means; empty for entries of other mappings."""
    from lorakit.registry import find_registry

    search = loaded.recipe.search
    owners = {"search.options": ("allocators", search.method), "search.proxy_options": ("proxies", search.proxy)}
    if key not in owners or owners[key][1] == "none":
        return ""
    registry, owner = owners[key]
    return str(find_registry(registry).get(owner).options[name].doc)


def card_registries() -> list[Registry[Any]]:
    """Where a name that is no recipe is looked up."""
    from lorakit.registry import find_registry

    return [find_registry(name) for name in ("methods", "updates", "combinations", "allocators", "proxies", "tasks")]


def card(registry: Registry[Any], name: str) -> str:
    """What an entry's own file says of it; for a task, its facts."""
    from lorakit.tasks.task import Task

    entry = registry.get(name)
    head = f"{name} ({registry.kind})"
    if isinstance(entry, Task):
        text = "\n".join(
            (
                entry.title,
                f"text:       {', '.join(entry.text)}",
                f"labels:     {', '.join(entry.labels) or 'a number'}",
                f"metrics:    {', '.join(entry.metrics)} (the first decides which epoch is best)",
                f"validation: {', '.join(entry.validation)}",
            )
        )
    else:
        # One file a method: the file's name is the entry's. What comes from another package has its class's file, or a line.
        module = sys.modules.get(f"{registry.package}.{name}")
        if module is None and isinstance(entry, type):
            module = inspect.getmodule(entry)
        text = (inspect.getdoc(module) if module else "") or entry.summary
        options = getattr(entry, "options", None)
        if options and registry.kind in OPTIONS_KEY:
            told = (f"    {key} = {option.default}: {option.doc}" for key, option in options.items())
            text += f"\n\n{OPTIONS_KEY[registry.kind]}:\n" + "\n".join(told)
    return f"{head}\n\n{text}"
