"""What one file, or the command line, sets: typed values by key path, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorakit.recipe.document import Place, parse, read_text, shown
from lorakit.recipe.keys import recipe_keys, section_keys
from lorakit.recipe.problems import Problems
from lorakit.recipe.values import UNREADABLE, described, read_value, scalar_kind

COMMAND_LINE = "command line"


@dataclass
class Layer:
    """values: key path -> typed value, or UNREADABLE; places: key, section or mapping entry -> where it stands; extends: the
    recipe this one builds on; complete: whether all of it could be read.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    extends: str | None = None
    complete: bool = True


def read_file(path: Path, problems: Problems) -> Layer:
    """The layer of one recipe file."""
    layer = Layer()
    text = read_text(path, problems)
    before = len(problems)
    node = None if text is None else parse(text, file_place(path), problems)
    if node is None:
        layer.complete = False
        if text is not None and len(problems) == before:
            problems.add("is empty", where=shown(path), valid="a recipe", hint="`lorakit list recipes` for examples")
    else:
        read_sections(node, layer, file_place(path), problems)
    return layer


def file_place(path: Path) -> Place:
    """Line -> ``file:line``."""
    name = shown(path)
    return lambda line: f"{name}:{line}"


def read_overrides(overrides: Sequence[str], problems: Problems) -> Layer:
    """The layer of KEY=VALUE arguments, split at the first ``=``, each VALUE read as YAML; of two for one key the last counts."""
    layer = Layer()

    def place(line: int) -> str:
        return COMMAND_LINE

    for override in overrides:
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
            node.value = text.strip()  # a comment to YAML; nobody writes one here, and the name of a folder may hold it
        if path in section_keys():
            read_section(path, node or null_node(), layer, place, problems)
        elif path in recipe_keys():
            set_value(path, node or null_node(), COMMAND_LINE, layer, place, problems)
        elif path == "extends":
            problems.add(
                "cannot be given here", where=COMMAND_LINE, key=path, hint="a recipe file with this line in it"
            )
        else:
            problems.unknown_key(path, COMMAND_LINE)
    return layer


def null_node() -> yaml.ScalarNode:
    """What an empty text stands for."""
    mark = yaml.Mark("", 0, 0, 0, None, 0)
    return yaml.ScalarNode("tag:yaml.org,2002:str", "", mark, mark)


def read_sections(node: yaml.Node, layer: Layer, place: Place, problems: Problems) -> None:
    """Fill ``layer`` from a whole recipe."""
    if not isinstance(node, yaml.MappingNode):
        layer.complete = False
        problems.add(
            f"is {described(node)}; a recipe is a mapping of sections",
            where=place(node.start_mark.line + 1),
            valid="sections " + ", ".join(section_keys()),
        )
        return
    for name, where, value in pairs(node, "", place, problems):
        if name == "extends":
            if isinstance(value, yaml.ScalarNode) and scalar_kind(value) is not None and value.value.strip():
                layer.extends = value.value
                layer.places[name] = where
            else:
                layer.complete = False
                problems.add(f"is {described(value)}", where=where, key=name, valid="one recipe's name or path")
        elif name in section_keys():
            layer.places[name] = where
            read_section(name, value, layer, place, problems)
        else:
            problems.unknown_key(name, where)


def read_section(section: str, node: yaml.Node, layer: Layer, place: Place, problems: Problems) -> None:
    """Fill ``layer`` from one section; an empty section sets nothing."""
    if isinstance(node, yaml.ScalarNode) and scalar_kind(node) is None:
        return
    if not isinstance(node, yaml.MappingNode):
        layer.values |= dict.fromkeys((f"{section}.{name}" for name in section_keys()[section]), UNREADABLE)
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
            set_value(f"{section}.{name}", value, where, layer, place, problems)
        else:
            problems.unknown_key(f"{section}.{name}", where)


def set_value(path: str, node: yaml.Node, where: str, layer: Layer, place: Place, problems: Problems) -> None:
    """Put one value, and the places of a mapping's entries, into ``layer``."""
    layer.values[path] = read_value(recipe_keys()[path], node, place, problems)
    layer.places[path] = where
    if isinstance(node, yaml.MappingNode):
        for name, _ in node.value:
            layer.places[f"{path}.{name.value}"] = place(name.start_mark.line + 1)


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
