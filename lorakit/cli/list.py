"""``lorakit list``: what there is to choose from."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lorakit.cli.options import AsJson

if TYPE_CHECKING:
    from lorakit.adapters.method import Method
    from lorakit.adapters.options import Option

Kind = Literal["methods", "updates", "combinations", "proxies", "tasks", "recipes", "models"]
TOLD = {"methods": ("name", "key", "what", "source"), "combinations": ("name", "what", "looks at", "weights", "source")}
"""What the table has of the kinds whose JSON tells more."""


def list_entries(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="What to list.")], as_json: AsJson = False
) -> None:
    """List methods, updates, combinations, proxies, tasks, recipes or models."""
    from lorakit.cli.output import write, write_json

    kinds = {
        "methods": methods,
        "updates": updates,
        "combinations": combinations,
        "proxies": proxies,
        "tasks": tasks,
        "recipes": recipes,
        "models": models,
    }
    rows = kinds[kind]()
    if as_json:
        write_json({kind: rows})
        return
    from lorakit.reporting.tables import Column, table

    names = TOLD.get(kind) or (list(rows[0]) if rows else ["name"])
    write(table(rows, [Column(name, itemgetter(name)) for name in names]))


def methods() -> list[dict[str, Any]]:
    """Adapter methods (recipe key adapter.method) with their whole presets, then allocators (search.method)."""
    from lorakit.adapters.method import methods as known_methods
    from lorakit.recipe.schema import EVOLUTION
    from lorakit.searching import evolution
    from lorakit.searching.allocator import allocators as known_allocators

    adapters = [preset(method) for _, method in known_methods.items()]
    searches = [
        {"name": name, "key": "search.method", "what": allocator.summary, "source": allocator.source}
        for name, allocator in known_allocators.items()
    ]
    told = (inspect.getdoc(evolution) or "").partition("\n")[0]
    searches.append({"name": EVOLUTION, "key": "search.method", "what": told, "source": ""})
    return adapters + sorted(searches, key=itemgetter("name"))


def preset(method: Method) -> dict[str, Any]:
    """Every field of a method; its options with the values they take, and what else they may be."""
    from lorakit.adapters.delta import deltas as known_deltas
    from lorakit.adapters.spec import read_options

    known: Mapping[str, Option] = known_deltas.get(method.delta).options
    own = read_options(method.delta, dict(method.options))
    options = {name: {"value": own.get(name, option.default), **asdict(option)} for name, option in known.items()}
    told = {"name": method.name, "key": "adapter.method", "what": method.summary, **asdict(method), "options": options}
    del told["summary"]
    return told


def combinations() -> list[dict[str, Any]]:
    """Ways to make one adapter of several (lorakit combine --method)."""
    from lorakit.artifacts.combination import combinations as known_combinations

    statistics = {"nothing": "nothing", "fisher": "gradients on training rows", "gram": "inputs on training rows"}
    return [
        {
            "name": name,
            "what": way.summary,
            "looks at": "losses on training rows" if way.learns else statistics[way.needs],
            "weights": "learnt" if way.learns else "equal shares" if way.weight is None else f"{way.weight:g} each",
            "density": way.density,
            "rank": way.rank,
            "factors": way.factors,
            "source": way.source,
        }
        for name, way in known_combinations.items()
    ]


def updates() -> list[dict[str, str]]:
    """What may go on during training (adapter.updates), with its settings (adapter.update_options) at their defaults."""
    from lorakit.training.update import updates as known_updates

    return [
        {
            "name": name,
            "what": update.summary,
            "options": " ".join(f"{key}={option.default}" for key, option in update.options.items()),
            "source": update.source,
        }
        for name, update in known_updates.items()
    ]


def proxies() -> list[dict[str, str]]:
    """Scores (search.proxy), with what each does where B is still zero."""
    from lorakit.searching.scoring import proxies as known_proxies

    return [
        {"name": name, "score": proxy.summary, "where B = 0": proxy.at_zero} for name, proxy in known_proxies.items()
    ]


def tasks() -> list[dict[str, str]]:
    """Known tasks (task.name), and the person's own files."""
    from lorakit.recipe.schema import CUSTOM
    from lorakit.tasks.task import tasks as known_tasks

    known = [
        {
            "name": name,
            "what": task.title,
            "texts": str(len(task.text)),
            "labels": ", ".join(task.labels) or "a number",
            "metrics": ", ".join(task.metrics),
        }
        for name, task in known_tasks.items()
    ]
    own = {"name": CUSTOM, "what": "your own csv, tsv, jsonl or parquet files", "texts": "1 or 2"}
    return [*known, {**own, "labels": "yours", "metrics": "task.metric"}]


def recipes() -> list[dict[str, str]]:
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


def models() -> list[dict[str, str]]:
    """What model.name may be: families whose projections are known by name, and the bundled encoder."""
    from lorakit.backbone.families import families as known_families

    bundled = {"family": "bundled:minilm", "model types": "bert", "roles": "a 22.7M encoder, from the extra 'bundled'"}
    known = [
        {
            "family": name,
            "model types": ", ".join(family.model_types),
            "roles": " ".join(dict.fromkeys(family.roles.values())),
        }
        for name, family in known_families.items()
    ]
    rest = {"family": "any other", "model types": "any", "roles": "found by structure, no shortcuts"}
    return [bundled, *known, rest]
