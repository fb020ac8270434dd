"""Keys that have become options of one proxy or allocator, or are called otherwise: where each went; and a key that older runs lack.

A person who writes the old key is told where it went. The recipe in a run's folder is not a person's: an older lorakit wrote it, with
every default spelt out, and it goes on meaning what it meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.recipe.schema import CUSTOM, SEARCH_PRESETS, SearchSection

SPLIT_SEED = "task.split_seed"


@dataclass(frozen=True)
class Moved:
    """to: the key whose options it is among; owner: the key that names whose options those are, and owners: the names that had it;
    default: its value where nobody gave one, as it was written.
    """

    to: str
    owner: str
    owners: tuple[str, ...]
    default: str


def of_proxy(default: str, *owners: str) -> Moved:
    """What is a proxy's."""
    return Moved("search.proxy_options", "search.proxy", owners, default)


def of_glora(default: str) -> Moved:
    """What is GLoRA's search's."""
    return Moved("search.options", "search.method", ("glora",), default)


MOVED: Mapping[str, Moved] = {
    "search.norm": of_proxy("l2", "gradnorm"),
    "search.untrained": of_proxy("expected", "snip", "synflow"),
    "search.tolerance": of_proxy("0.01", "alpha"),
    "search.population": of_glora("50"),
    "search.generations": of_glora("20"),
    "search.parents": of_glora("10"),
    "search.mutation": of_glora("0.2"),
    "search.holdout": of_glora("0.1"),
    "search.min_parameters": of_glora("0"),
}


@dataclass(frozen=True)
class Renamed:
    """to: what a key is called now; words: those of its values that are called otherwise too, old -> new."""

    to: str
    words: Mapping[str, str]


RENAMED: Mapping[str, Renamed] = {"model.pooling": Renamed("model.readout", {"default": "own"})}
REWORDED: Mapping[tuple[str, str], tuple[str, str]] = {("model.head", "probe"): ("model.head_start", "fitted")}
"""A key and a value that it has no longer -> what says the same now."""


def said_now(path: str, text: str) -> tuple[str, str] | None:
    """The key and the value that say now what ``path: text`` said; None where they still do."""
    if renamed := RENAMED.get(path):
        return renamed.to, renamed.words.get(text, text)
    return REWORDED.get((path, text))


def where_it_went(path: str, text: str, equals: str) -> tuple[str, str]:
    """What to say of an old key that was given as ``text`` (empty where it is no single value): what, and what to try.

    equals: what stands between a key and its value there.
    """
    if now := said_now(path, text):
        what = f"is called {now[0]} now" if path in RENAMED else f"'{text}' has moved: it is a value of {now[0]} now"
        return what, f"{now[0]}{equals}{now[1] or 'VALUE'}"
    moved, name = MOVED[path], path.rpartition(".")[2]
    kind = {"search.proxy": "proxy", "search.method": "allocator"}[moved.owner]
    what = f"has moved: it is an option of {kind} {' and '.join(moved.owners)}"
    if text == moved.default:
        return what, "leave it out: that is its default"
    return what, f"{moved.to}{equals}{{{name}: {text or moved.default}}}"


def is_of_a_run(path: Path) -> bool:
    """Whether ``path`` is the recipe in a run's folder, where ``artifacts.run.Run.start`` wrote it beside the environment."""
    return path.name == "recipe.yaml" and (path.parent / "environment.json").is_file()


def split_meant(values: Mapping[str, Any]) -> dict[str, None]:
    """What a run's recipe meant by its ``values`` where it does not say what draws the held-out rows: its ``run.seed`` did."""
    own_file = values.get("task.name") == CUSTOM and values.get("task.validation") is None
    return {SPLIT_SEED: None} if own_file and SPLIT_SEED not in values else {}


def options_meant(old: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Key -> the options that a run's recipe meant by its ``old`` keys, beside its other ``values``.

    What belongs to a proxy or allocator that the run does not have meant nothing, and a default is none to state, unless the
    run's preset sets it otherwise.
    """
    chosen = {"search.proxy": SearchSection().proxy, "search.method": SearchSection().method} | dict(values)
    preset = SEARCH_PRESETS.get(values.get("search.preset") or "", {})
    meant: dict[str, dict[str, str]] = {}
    for path, text in old.items():
        moved, name = MOVED[path], path.rpartition(".")[2]
        if chosen[moved.owner] not in moved.owners:
            continue
        options = meant.setdefault(moved.to, {})
        if text != moved.default or preset.get(moved.to, {}).get(name, text) != text:
            options[name] = text
    return {key: options for key, options in meant.items() if options or key == "search.options"}
