"""``lorakit list``: what there is to choose from."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

import lorakit
from lorakit.cli import list_runs
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson
from lorakit.cli.output import write
from lorakit.errors import UsageError
from lorakit.registry import find_registry
from lorakit.reporting.tables import Column, table

if TYPE_CHECKING:
    from lorakit.adapters.method import Method
    from lorakit.adapters.options import Option

Kind = Literal[
    "methods",
    "deltas",
    "inits",
    "updates",
    "optimizers",
    "allocators",
    "proxies",
    "combinations",
    "tasks",
    "recipes",
    "models",
    "runs",
]
KIND_HELP = (
    "methods: whole adapters; deltas: what an adapter adds to a weight; inits: how it starts; updates: what happens to it "
    "during training; optimizers: what turns gradients into steps; allocators: what decides who gets the budget; "
    "proxies: how sites are scored; combinations: how several runs become one; tasks; recipes: shipped ones; models; "
    "runs: your own, newest last."
)
Row = dict[str, Any]
COLUMNS = {
    "methods": {key: key for key in ("name", "key", "what", "source")},
    "combinations": {key: key for key in ("name", "what", "looks at", "weights", "source")}
    | {"weights": "coefficients"},
}
"""Kind -> keys of its rows -> columns of its table, where that is not simply all of them."""


def list_entries(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help=KIND_HELP)],
    folder: Annotated[
        Optional[Path], typer.Option("--folder", help="For runs: where they lie; runs by default.", file_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what a recipe can name: methods, allocators, proxies, tasks, models and more; the shipped recipes; or your runs."""
    if kind == "runs":
        with envelope():
            answer(lorakit.list_runs(folder), list_runs.tell, as_json=as_json)
        return
    if folder is not None:
        raise UsageError("--folder goes with the list of runs", valid="lorakit list runs --folder FOLDER")
    kinds = {
        "methods": methods,
        "deltas": deltas,
        "inits": inits,
        "updates": updates,
        "optimizers": optimizers,
        "allocators": allocators,
        "proxies": proxies,
        "combinations": combinations,
        "tasks": tasks,
        "recipes": recipes,
        "models": models,
    }
    listed: dict[str, list[Row]] = {kind: kinds[kind]()}
    answer(listed, tell, as_json=as_json)


def tell(listed: dict[str, list[Row]]) -> None:
    """Write the rows as a table."""
    for kind, rows in listed.items():
        columns = COLUMNS.get(kind) or {key: key for key in rows[0]}
        write(table(rows, [Column(title, itemgetter(key)) for key, title in columns.items()]))


def entries(registry: str) -> list[Any]:
    """What is registered, sorted by name."""
    return [entry for _, entry in find_registry(registry).items()]


def options_of(entry: Any) -> str:
    """``rate=0.1 start=0``: an entry's own options with their defaults."""
    return " ".join(f"{key}={option.default}" for key, option in entry.options.items())


def methods() -> list[Row]:
    """Adapter methods (recipe key adapter.method) with their whole presets, then allocators (search.method)."""
    searches = [
        {"name": row["name"], "key": "search.method", "what": row["what"], "source": row["source"]}
        for row in allocators()
    ]
    return [preset(method) for method in entries("methods")] + searches


def preset(method: Method) -> Row:
    """Every field of a method; its options with the values they take, and what else they may be."""
    from lorakit.adapters.spec import read_options

    known: Mapping[str, Option] = find_registry("deltas").get(method.delta).options
    own = read_options(method.delta, dict(method.options))
    options = {name: {"value": own.get(name, option.default), **asdict(option)} for name, option in known.items()}
    row = {
        "name": method.name,
        "key": "adapter.method",
        "what": method.summary,
        **asdict(method),
        "options": options,
        "update_options": dict(method.update_options),
    }
    del row["summary"]
    return row


def deltas() -> list[Row]:
    """Parametrisations of a site's update, which methods are made of."""
    return [
        {"name": delta.name, "what": first_line(delta).rstrip("."), "options": options_of(delta)}
        for delta in entries("deltas")
    ]


def inits() -> list[Row]:
    """How an adapter's tensors start (adapter.init)."""
    return [{"name": init.name, "what": init.summary, "source": init.source} for init in entries("inits")]


def updates() -> list[Row]:
    """What may go on during training (adapter.updates), with its settings (adapter.update_options) at their defaults."""
    return [chosen_by_recipe(update) for update in entries("updates")]


def optimizers() -> list[Row]:
    """What turns gradients into steps (training.optimizer), with its settings (training.optimizer_options) at their defaults."""
    return [chosen_by_recipe(optimizer) for optimizer in entries("optimizers")]


def allocators() -> list[Row]:
    """What decides who gets the budget (search.method), with its settings (search.options) at their defaults."""
    return [chosen_by_recipe(allocator) for allocator in entries("allocators")]


def chosen_by_recipe(entry: Any) -> Row:
    """The row of what has options of its own and a source."""
    return {"name": entry.name, "what": entry.summary, "options": options_of(entry), "source": entry.source}


def first_line(documented: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def proxies() -> list[Row]:
    """Scores (search.proxy), with what each does where B is still zero, and its settings (search.proxy_options) at their defaults."""
    return [
        {"name": proxy.name, "score": proxy.summary, "where B = 0": proxy.at_zero, "options": options_of(proxy)}
        for proxy in entries("proxies")
    ]


def combinations() -> list[Row]:
    """Ways to make one adapter of several (lorakit combine --method)."""
    statistics = {"nothing": "nothing", "fisher": "gradients on training rows", "gram": "inputs on training rows"}
    return [
        {
            "name": way.name,
            "what": way.summary,
            "looks at": "losses on training rows" if way.learns else statistics[way.needs],
            "weights": "learnt" if way.learns else "equal shares" if way.weight is None else f"{way.weight:g} each",
            "density": way.density,
            "rank": way.rank,
            "factors": way.factors,
            "source": way.source,
        }
        for way in entries("combinations")
    ]


def tasks() -> list[Row]:
    """Known tasks (task.name), and the person's own files."""
    from lorakit.recipe.schema import CUSTOM

    known = [
        {
            "name": task.name,
            "what": task.title,
            "texts": str(len(task.text)),
            "labels": ", ".join(task.labels) or "a number",
            "metrics": ", ".join(task.metrics),
        }
        for task in entries("tasks")
    ]
    own = {"name": CUSTOM, "what": "your own csv, tsv, jsonl or parquet files", "texts": "1 or 2"}
    return [*known, {**own, "labels": "yours", "metrics": "task.metric"}]


def recipes() -> list[Row]:
    """Shipped recipes, each with what the comment on its top says first."""
    from lorakit.recipe.load import shipped_recipes

    return [
        {"name": name, "what": headline(path.read_text(encoding="utf-8"))}
        for name, path in sorted(shipped_recipes().items())
    ]


def headline(recipe: str) -> str:
    """The first clause of a recipe's opening comment, its launch line apart."""
    comments = itertools.takewhile(lambda line: line.startswith("#"), recipe.splitlines())
    prose = " ".join(line.lstrip("# ") for line in comments if "lorakit train" not in line)
    return re.split(r"[.:;](?:\s|$)", prose, maxsplit=1)[0]


def models() -> list[Row]:
    """What model.name may be: families whose projections are known by name, and the bundled encoder."""
    bundled = {"family": "bundled:minilm", "model types": "bert", "roles": "a 22.7M encoder, from the extra 'bundled'"}
    known = [
        {
            "family": family.name,
            "model types": ", ".join(family.model_types),
            "roles": " ".join(dict.fromkeys(family.roles.values())),
        }
        for family in entries("families")
    ]
    rest = {"family": "any other", "model types": "any", "roles": "found by structure, no shortcuts"}
    return [bundled, *known, rest]
