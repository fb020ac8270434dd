"""What one file, or the command line, lays over the recipe below it: typed values by key path, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorakit.recipe.document import Place, parse, read_text, shown
from lorakit.recipe.keys import recipe_keys, section_keys
from lorakit.recipe.moved import MOVED, RENAMED, is_of_a_run, options_meant, said_now, split_meant, where_it_went
from lorakit.recipe.problems import Problems
from lorakit.recipe.values import UNREADABLE, described, read_value, scalar_kind

COMMAND_LINE = "command line"
SEQUENCE_KEYS = ("sequence", "continual")
"""What stands beside the sections in a recipe of several tasks (``recipe.sequence``)."""


@dataclass
class Overlay:
    """values: key path -> typed value, or UNREADABLE; places: key, section or mapping entry -> where it stands; extends: the
    recipe this one builds on; complete: whether all of it could be read; of_run: whether it is the recipe in a run's folder, and
    old: the text of keys there that have moved since (``recipe.moved``).
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    extends: str | None = None
    complete: bool = True
    of_run: bool = False
    old: dict[str, str] = field(default_factory=dict)


def read_file(path: Path, problems: Problems) -> Overlay:
    """What one recipe file sets."""
    text = read_text(path, problems)
    if text is None:
        return Overlay(complete=False, of_run=is_of_a_run(path))
    return read_document(text, file_place(path), problems, of_run=is_of_a_run(path), name=shown(path))


def read_document(text: str, place: Place, problems: Problems, *, of_run: bool = False, name: str = "") -> Overlay:
    """What the text of a recipe sets, whose lines are found at ``place``; name: what an empty one is called."""
    overlay = Overlay(of_run=of_run)
    before = len(problems)
    node = parse(text, place, problems)
    if node is None:
        overlay.complete = False
        if len(problems) == before:
            problems.add("is empty", where=name, valid="a recipe", hint="`lorakit list recipes` for examples")
    else:
        read_sections(node, overlay, place, problems)
        overlay.values |= options_meant(overlay.old, overlay.values)
        if overlay.of_run:
            overlay.values |= split_meant(overlay.values)
    return overlay


def file_place(path: Path) -> Place:
    """Line -> ``file:line``."""
    name = shown(path)
    return lambda line: f"{name}:{line}"


def as_list(given: Any) -> list[Any]:
    """The items of a sequence; of one name or path alone it: nobody means its letters."""
    return [given] if isinstance(given, (str, Path)) else [*given]


def read_overrides(overrides: Sequence[str], problems: Problems) -> Overlay:
    """What KEY=VALUE arguments set, split at the first ``=``, each VALUE read as YAML; of two for one key the last counts."""
    overlay = Overlay()

    def place(line: int) -> str:
        return COMMAND_LINE

    for override in as_list(overrides):
        path, equals, text = override.partition("=")
        path = path.strip()
        if not equals or not path:
            hint = f"{path}=VALUE" if path in recipe_keys() else ""
            problems.add(f"'{override}' is not KEY=VALUE", where=COMMAND_LINE, valid="e.g. adapter.rank=4", hint=hint)
            continue
        before = len(problems)
        node = parse(text, place, problems)
        if len(problems) > before:
            continue
        if isinstance(node, yaml.ScalarNode) and node.style is None and " #" in text:
            # A comment to YAML; nobody writes one here, and the name of a folder may hold it.
            node = yaml.ScalarNode(node.tag, text.strip(), node.start_mark, node.end_mark)
        if path in section_keys():
            read_section(path, node or null_node(), overlay, place, problems)
        elif path in recipe_keys():
            set_value(path, node or null_node(), COMMAND_LINE, overlay, place, problems)
        elif path in MOVED or path in RENAMED:
            set_moved(path, node or null_node(), COMMAND_LINE, overlay, place, problems)
        elif path == "extends":
            problems.add(
                "cannot be given here", where=COMMAND_LINE, key=path, hint="a recipe file with this line in it"
            )
        else:
            problems.unknown_key(path, COMMAND_LINE)
    return overlay


def null_node() -> yaml.ScalarNode:
    """What an empty text stands for."""
    mark = yaml.Mark("", 0, 0, 0, None, 0)
    return yaml.ScalarNode("tag:yaml.org,2002:str", "", mark, mark)


def read_sections(node: yaml.Node, overlay: Overlay, place: Place, problems: Problems) -> None:
    """Fill ``overlay`` from a whole recipe."""
    if not isinstance(node, yaml.MappingNode):
        overlay.complete = False
        problems.add(
            f"is {described(node)}; a recipe is a mapping of sections",
            where=place(node.start_mark.line + 1),
            valid="sections " + ", ".join(section_keys()),
        )
        return
    for name, where, value in pairs(node, "", place, problems):
        if name == "extends":
            if isinstance(value, yaml.ScalarNode) and scalar_kind(value) is not None and value.value.strip():
                overlay.extends = value.value
                overlay.places[name] = where
            else:
                overlay.complete = False
                problems.add(f"is {described(value)}", where=where, key=name, valid="one recipe's name or path")
        elif name in section_keys():
            overlay.places[name] = where
            read_section(name, value, overlay, place, problems)
        elif name in SEQUENCE_KEYS:
            overlay.complete = False
            what = "makes a sequence of tasks of this file, and one recipe is wanted here"
            problems.add(what, where=where, key=name, hint="lorakit train and lorakit plan take a sequence")
        else:
            problems.unknown_key(name, where)


def read_section(section: str, node: yaml.Node, overlay: Overlay, place: Place, problems: Problems) -> None:
    """Fill ``overlay`` from one section; an empty section sets nothing."""
    if isinstance(node, yaml.ScalarNode) and scalar_kind(node) is None:
        return
    if not isinstance(node, yaml.MappingNode):
        overlay.values |= dict.fromkeys((f"{section}.{name}" for name in section_keys()[section]), UNREADABLE)
        first = section_keys()[section][0]
        hint = f"{section}: {{{first}: {node.value}}}" if isinstance(node, yaml.ScalarNode) else ""
        problems.add(
            f"is {described(node)}; a section is a mapping",
            where=place(node.start_mark.line + 1),
            key=section,
            valid="keys " + ", ".join(section_keys()[section]),
            hint=hint,
        )
        return
    for name, where, value in pairs(node, f"{section}.", place, problems):
        if name in section_keys()[section]:
            set_value(f"{section}.{name}", value, where, overlay, place, problems)
        elif (path := f"{section}.{name}") in MOVED or path in RENAMED:
            set_moved(path, value, where, overlay, place, problems)
        else:
            problems.unknown_key(f"{section}.{name}", where)


def set_value(path: str, node: yaml.Node, where: str, overlay: Overlay, place: Place, problems: Problems) -> None:
    """Put one value, and the places of a mapping's entries, into ``overlay``."""
    if isinstance(node, yaml.ScalarNode) and said_now(path, node.value):
        set_moved(path, node, where, overlay, place, problems)
        return
    overlay.values[path] = read_value(recipe_keys()[path], node, place, problems)
    overlay.places[path] = where
    if isinstance(node, yaml.MappingNode):
        for name, _ in node.value:
            overlay.places[f"{path}.{name.value}"] = place(name.start_mark.line + 1)


def set_moved(path: str, node: yaml.Node, where: str, overlay: Overlay, place: Place, problems: Problems) -> None:
    """A key of old: kept for what it meant in a run's recipe, else a problem that says where it went."""
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    now = said_now(path, text)
    if overlay.of_run and now:
        tag = "tag:yaml.org,2002:str"
        set_value(now[0], yaml.ScalarNode(tag, now[1], node.start_mark), where, overlay, place, problems)
    elif overlay.of_run:
        overlay.old[path] = text
    else:
        what, hint = where_it_went(path, text, equals="=" if where == COMMAND_LINE else ": ")
        problems.add(what, where=where, key=path, hint=hint)


def pairs(
    node: yaml.MappingNode, prefix: str, place: Place, problems: Problems
) -> Iterator[tuple[str, str, yaml.Node]]:
    """(key, where, value) of a mapping; keys that come twice, or are no plain words, are problems and left out."""
    seen: dict[str, str] = {}
    for name, value in node.value:
        where = place(name.start_mark.line + 1)
        if not isinstance(name, yaml.ScalarNode):
            problems.add(
                f"{described(name)} cannot be a key", where=where, key=prefix.rstrip("."), valid="a plain word"
            )
        elif name.value in seen:
            first = f"is given twice, first at {seen[name.value]}"
            problems.add(first, where=where, key=prefix + name.value, valid="each key once")
        else:
            seen[name.value] = where
            yield name.value, where, value
