"""``lorakit show``: a recipe with every key explained, a key, or the card of a method or of whatever else has a name."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import lorakit
from lorakit.cli import show_method
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import WITH_CARD, complete_shown
from lorakit.cli.options import AsJson, Overrides, open_recipe
from lorakit.cli.output import write
from lorakit.errors import UsageError, nearest
from lorakit.registry import find_registry

if TYPE_CHECKING:
    from lorakit.recipe.load import LoadedRecipe
    from lorakit.registry import Registry
    from lorakit.tasks.task import Task

OPTIONS = {
    "allocator": "search.options",
    "proxy": "search.proxy_options",
    "training update": "adapter.update_options",
    "optimiser": "training.optimizer_options",
}
"""Kind of an entry -> the recipe key of its own options."""
KEY_INDENT = 2  # spaces before a key in a resolved recipe; sections have none, entries of a mapping more
WIDEST_VALUE = 48  # columns up to which the comments are lined up


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A recipe (shipped, file or run folder), a key or section of one (training.lr), or what lorakit list names: "
            "a method, an allocator, a task ...",
            autocompletion=complete_shown,
        ),
    ],
    overrides: Overrides = None,
    model: Annotated[
        Optional[str],
        typer.Option("--model", help="For a method: the model to count its parameters on; by default the demo's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe with every key explained; a key or section; or the card of whatever lorakit list names: a method, a task ..."""
    from lorakit.cli.show_key import is_key, show_key

    with envelope(offline=True, quiet=True):
        found = [registry for registry in map(find_registry, WITH_CARD) if name in registry]
        is_method = name in find_registry("methods")
        if model is not None and not is_method:
            raise UsageError(
                f"--model goes with the card of a method, and '{name}' is not a method", hint="leave it out"
            )
        named_key = not found and is_key(name)
        if is_recipe(name, has_card=bool(found) or named_key):
            loaded = open_recipe(name, overrides)
            answer(asdict(loaded.recipe), lambda _: write(explained(loaded)), as_json=as_json)
            return
        if not found and not named_key:
            raise unknown(name)
        if overrides:
            raise UsageError(
                f"KEY=VALUE changes a recipe, and '{name}' is not a recipe", valid="lorakit show RECIPE KEY=VALUE"
            )
        if named_key:
            show_key(name, as_json=as_json)
            return
        if is_method:
            further = [(find_registry("updates"), update) for update in found[0].get(name).updates]
            further += [(registry, name) for registry in found[1:]]
            cards = [card(registry, entry) for registry, entry in dict.fromkeys(further)]
            answer(lorakit.describe(name, model=model), partial(show_method.tell, further=cards), as_json=as_json)
            return
        cards = [card(registry, name) for registry in found]
        answer({"name": name, "cards": cards}, lambda _: write("\n\n".join(cards)), as_json=as_json)


def is_recipe(name: str, *, has_card: bool) -> bool:
    """Whether the name is that of a recipe; a file or folder of the name of something that has a card does not hide it."""
    from lorakit.recipe.load import shipped_recipes

    path = Path(name)
    return name in shipped_recipes() or path.suffix in (".yaml", ".yml") or (path.exists() and not has_card)


def unknown(name: str) -> UsageError:
    """The error for a name that nothing has."""
    from lorakit.recipe.keys import recipe_keys, section_keys
    from lorakit.recipe.load import shipped_recipes
    from lorakit.recipe.problems import suggest_key
    from lorakit.recipe.schema import CUSTOM

    known = [
        *shipped_recipes(),
        CUSTOM,
        *section_keys(),
        *(entry for kind in WITH_CARD for entry in find_registry(kind).names()),
    ]
    return UsageError(
        f"there is no recipe called '{name}', and nothing else with a card",
        valid=f"a recipe's file, a run folder, a recipe key, or a name from: lorakit list recipes, {', '.join(WITH_CARD)}",
        hint=nearest(name, recipe_keys() if "." in name else known) or suggest_key(name) or "lorakit list methods",
    )


def explained(loaded: LoadedRecipe) -> str:
    """The resolved recipe as YAML, a comment behind every key; it can be trained as it is."""
    from lorakit.recipe.keys import recipe_keys

    lines: list[tuple[str, str]] = []
    section = key = ""
    for line in loaded.to_yaml().splitlines():
        indent, name = len(line) - len(line.lstrip()), line.partition(":")[0].strip(" '")
        if indent == 0:
            section = name
            doc = ""
        elif indent == KEY_INDENT:
            key = f"{section}.{name}"
            doc = recipe_keys()[key].rule.doc
        else:
            doc = option_doc(loaded, key, name)
        lines.append((line, doc))
    width = min(max(len(text) for text, doc in lines if doc), WIDEST_VALUE)
    return "\n".join(f"{text:<{width}}  # {doc}" if doc else text for text, doc in lines)


def option_doc(loaded: LoadedRecipe, key: str, name: str) -> str:
    """What an option of the recipe's allocator, proxy or optimiser means; empty for entries of other mappings."""
    search = loaded.recipe.search
    owners = {
        "search.options": ("allocators", search.method),
        "search.proxy_options": ("proxies", search.proxy),
        "training.optimizer_options": ("optimizers", loaded.recipe.training.optimizer),
    }
    if key not in owners or owners[key][1] == "none":
        return ""
    registry, owner = owners[key]
    return str(find_registry(registry).get(owner).options[name].doc)


def card(registry: Registry[Any], name: str) -> str:
    """What an entry's own file says of it and its options; for a task, its facts."""
    from lorakit.tasks.task import Task
    from lorakit.workflow.describe import header

    entry = registry.get(name)
    if isinstance(entry, Task):
        text = task_facts(entry)
    else:
        # One file a method: the file's name is the entry's. What comes from another package has its class's file, or a line.
        module = inspect.getmodule(entry) if isinstance(entry, type) else None
        text = header(registry, name) or (inspect.getdoc(module) if module else "") or entry.summary
        if options := getattr(entry, "options", None):
            lines = (f"    {key} = {option.default}: {option.doc}" for key, option in options.items())
            text += f"\n\n{OPTIONS.get(registry.kind, 'options')}:\n" + "\n".join(lines)
    return f"{name} ({registry.kind})\n\n{text}"


def task_facts(task: Task) -> str:
    """A task's columns, labels, metrics and splits."""
    return "\n".join(
        (
            task.title,
            f"text:       {', '.join(task.text)}",
            f"labels:     {', '.join(task.labels) or 'a number'}",
            f"metrics:    {', '.join(task.metrics)} (the first decides which epoch is best)",
            f"validation: {', '.join(task.validation)}",
        )
    )
