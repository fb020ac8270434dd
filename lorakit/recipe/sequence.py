"""A recipe of several tasks, learnt one after the other on one frozen backbone.

    sequence: [dbpedia.yaml, amazon.yaml]          recipes, in the order in which they are learnt; or
    sequence: {dbpedia: {train: ...}, ...}         a name and the keys of a `task` section for each
    continual: {method: sequential}                how what was learnt is kept
    training: {epochs: 2}                          sections win over those of the recipes, and are those of all named tasks

Each task is a recipe of its own, put together as any other (``recipe.load``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Optional, get_type_hints

import yaml

from lorakit.errors import RecipeError, nearest
from lorakit.recipe.document import SUFFIXES, Place, compose, missing_file, parse, read_text, shown
from lorakit.recipe.keys import Key, read_key, recipe_keys
from lorakit.recipe.load import (
    NOTHING_CHOSEN,
    TOLD_NOTHING_CHOSEN,
    LoadedRecipe,
    chooses_nothing,
    find_base,
    find_recipe,
    merge,
    put_together,
    read_chain,
    shipped_recipes,
)
from lorakit.recipe.overlays import (
    COMMAND_LINE,
    Overlay,
    as_list,
    file_place,
    pairs,
    read_file,
    read_overrides,
    read_section,
    read_sections,
)
from lorakit.recipe.problems import Problems
from lorakit.recipe.schema import Recipe, key
from lorakit.recipe.values import UNREADABLE, described, read_value, scalar_kind, written
from lorakit.recipe.vocabulary import SEQUENCE_FILE

SEQUENCE, CONTINUAL, EXTENDS = "sequence", "continual", "extends"
SEPARATE, COLOR, SEQUENTIAL, REPLAY, O_LORA = "separate", "color", "sequential", "replay", "o_lora"
AM_LORA, ONLINE_LORA = "am_lora", "online_lora"
APART = (SEPARATE, COLOR)
"""Methods with an adapter for each task."""
RESERVOIR, BY_CLASS = "reservoir", "class"
SETTINGS: dict[str, dict[str, Any]] = {
    SEPARATE: {},
    COLOR: {"prototypes": 5},
    SEQUENTIAL: {},
    REPLAY: {"memory": 200, "memory_by": RESERVOIR},
    O_LORA: {"orthogonality": 0.5},
    AM_LORA: {"sparsity": 1e-4, "activation": "tanh"},
    ONLINE_LORA: {
        "loras": 8,
        "window": 5,
        "loss_mean": 6.0,
        "loss_variance": 0.1,
        "hard_rows": 4,
        "importance": 2000.0,
    },
}
"""Method -> those of the other keys that it has, with their values where nobody gives one."""


@dataclass
class ContinualSection:
    """How what was learnt before is kept while the next task is learnt."""

    method: str = key(
        SEQUENTIAL,
        "separate: an adapter a task, which forgets nothing; color: the same, and where the task is not known the frozen features "
        "choose it; sequential: one adapter, trained on; replay: with some earlier rows again in "
        "every step; o_lora: a LoRA a task beside the earlier ones, orthogonal to them; am_lora: a LoRA a task, the earlier ones frozen, "
        "weighed by an attention; online_lora: another LoRA wherever the loss lies still, whatever task it is",
        choices=tuple(SETTINGS),
    )
    prototypes: Optional[int] = key(None, "color: centres of k-means for each task; 5 by default", low=1)
    memory: Optional[int] = key(None, "replay: training rows that are kept of all earlier tasks; 200 by default", low=1)
    memory_by: Optional[str] = key(
        None,
        "replay: which ones: a reservoir of all rows so far (by default), or as many of each class",
        choices=(RESERVOIR, BY_CLASS),
    )
    orthogonality: Optional[float] = key(
        None, "o_lora: lambda, the weight of the overlap with earlier tasks; 0.5 by default", low=0
    )
    sparsity: Optional[float] = key(
        None, "am_lora: lambda, the weight of the attention's L1 norm; 1e-4 by default", low=0
    )
    activation: Optional[str] = key(
        None, "am_lora: what the attention's scores go through; tanh by default", choices=("tanh", "relu")
    )
    loras: Optional[int] = key(None, "online_lora: LoRAs that there is room for; 8 by default", low=1)
    window: Optional[int] = key(None, "online_lora: losses that are looked at for a plateau; 5 by default", low=2)
    loss_mean: Optional[float] = key(
        None, "online_lora: below which their mean lies at a plateau; 6 by default", above=0
    )
    loss_variance: Optional[float] = key(
        None, "online_lora: below which their variance lies at one; 0.1 by default", above=0
    )
    hard_rows: Optional[int] = key(None, "online_lora: rows of the largest loss that are kept; 4 by default", low=1)
    importance: Optional[float] = key(
        None, "online_lora: weight of what holds important parameters near their start; 2000 by default", low=0
    )


@dataclass(frozen=True)
class LoadedSequence:
    """A recipe of several tasks that is right in itself.

    name: of the whole; folder: in which its own folder is made; path: the file; names: of the tasks; tasks: the recipe of each, as it
    is written, what comes of the tasks before it not yet in it; continual: how what was learnt is kept; where: of the key ``sequence``.
    """

    name: str
    folder: Path
    path: Path
    names: list[str]
    tasks: list[LoadedRecipe]
    continual: ContinualSection
    where: str

    @property
    def seed(self) -> int:
        """The one of all tasks."""
        return self.tasks[0].recipe.run.seed

    def to_yaml(self, recipes: Sequence[str]) -> str:
        """The recipe of the whole, whose tasks are resolved in the files ``recipes``."""
        lines = [
            f"# {self.name}, its tasks in the order in which they are learnt. To train it: lorakit train THIS_FILE"
        ]
        lines += [f"{SEQUENCE}:", *(f"  - {written(name)}" for name in recipes)]
        lines += [f"{CONTINUAL}:", *(f"  {name}: {written(value)}" for name, value in asdict(self.continual).items())]
        own = {"name": self.name, "folder": str(self.folder)}
        lines += ["run:", *(f"  {name}: {written(value)}" for name, value in own.items())]
        return "\n".join(lines) + "\n"


def find_sequence(recipe: object) -> Path | None:
    """The file that a person names, where it makes a sequence of tasks: by itself, as a shipped recipe, or by the folder of its runs."""
    if not isinstance(recipe, (str, Path)) or not str(recipe):
        return None
    inside = Path(os.path.expanduser(recipe)) / SEQUENCE_FILE
    if os.path.isfile(inside):
        return inside
    try:
        path = find_recipe(recipe)
        node = compose(path.read_text(encoding="utf-8-sig")) if path.suffix in SUFFIXES else None
    except (RecipeError, OSError, ValueError, yaml.YAMLError, RecursionError):  # whoever reads it as one recipe says so
        return None
    keys = [name.value for name, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return path if SEQUENCE in keys else None


def load_sequence(path: Path, overrides: Sequence[str] = (), *, offline: bool = False) -> LoadedSequence:
    """Read the recipe of a sequence and those of its tasks, and check each as it stands.

    overrides: ``KEY=VALUE`` each, for all tasks; ``continual.KEY=VALUE`` too. RecipeError with everything that is wrong.
    """
    problems, overrides = Problems(), as_list(overrides)
    given = [text for text in overrides if not text.strip().startswith((f"{CONTINUAL}.", f"{CONTINUAL}="))]
    above = read_overrides([*given, *(["run.offline=true"] if offline else [])], problems)
    text = read_text(path, problems)
    node = None if text is None else parse(text, file_place(path), problems)
    if not isinstance(node, yaml.MappingNode):
        problems.raise_if_any()
        raise RecipeError("is no recipe", where=shown(path), valid=f"a mapping with the key {SEQUENCE}")
    place = file_place(path)
    own, parts = read_own(node, place, problems)
    continual = read_continual(parts.get(CONTINUAL), place, [text for text in overrides if text not in given], problems)
    where = place(parts[SEQUENCE].start_mark.line + 1)
    found = list(read_tasks(parts[SEQUENCE], own, path, place, problems))
    problems.raise_if_any()
    check_names([name for name, _ in found], where)
    tasks = [one_task(name, [*overlays, above], path, problems) for name, overlays in found]
    problems.raise_if_any()
    whole, _ = merge([own, above])
    return LoadedSequence(
        name=str(whole.get("run.name") or path.stem),
        folder=Path(whole.get("run.folder", recipe_keys()["run.folder"].default)),
        path=path,
        names=[name for name, _ in found],
        tasks=[task for task in tasks if task is not None],
        continual=continual,
        where=where,
    )


def read_own(node: yaml.MappingNode, place: Place, problems: Problems) -> tuple[Overlay, dict[str, yaml.Node]]:
    """What the file itself sets, and the nodes of what is no section of a recipe."""
    parts: dict[str, yaml.Node] = {}
    rest: list[tuple[yaml.Node, yaml.Node]] = []
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.value in (SEQUENCE, CONTINUAL):
            if name.value in parts:
                where = place(name.start_mark.line + 1)
                problems.add("is given twice", where=where, key=name.value, valid="each key once")
            parts.setdefault(name.value, value)
        else:
            rest.append((name, value))
    own = Overlay()
    read_sections(yaml.MappingNode(node.tag, rest, node.start_mark, node.end_mark), own, place, problems)
    return own, parts


def read_tasks(
    node: yaml.Node, own: Overlay, path: Path, place: Place, problems: Problems
) -> Iterator[tuple[str, list[Overlay]]]:
    """Name and overlays of each task: the file's own values win over those of recipes, the keys of a named task over the file's."""
    valid = "a list of recipes, or a mapping from names to the keys of a task section"
    where = place(node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        if own.extends is not None:
            what = "says what one recipe is built on, and these tasks are recipes of their own"
            problems.add(what, where=own.places[EXTENDS], key=EXTENDS, hint="extends in the recipes of the tasks")
        for entry in node.value:
            yield from ((name, [*chain, own]) for name, chain in read_entry(entry, path, place, problems))
    elif isinstance(node, yaml.MappingNode):
        base = base_of(own, path, problems)
        for name, at, table in pairs(node, f"{SEQUENCE}.", place, problems):
            task = Overlay(places={"task": at})
            read_section("task", table, task, place, problems)
            check_name(name, at, problems)
            yield name, [*base, own, task]
    else:
        problems.add(f"is {described(node)}", where=where, key=SEQUENCE, valid=valid)


def read_entry(entry: yaml.Node, path: Path, place: Place, problems: Problems) -> Iterator[tuple[str, list[Overlay]]]:
    """One recipe of a list of them."""
    where = place(entry.start_mark.line + 1)
    if not isinstance(entry, yaml.ScalarNode) or scalar_kind(entry) is None:
        problems.add(f"has {described(entry)} in it", where=where, key=SEQUENCE, valid="recipes: names or files")
        return
    found = find_base(entry.value, path.parent)
    if found is None:
        valid, hint = missing_file(entry.value, shipped_recipes(), path.parent)
        problems.add(f"there is no recipe '{entry.value}'", where=where, key=SEQUENCE, valid=valid, hint=hint)
        return
    chain = read_chain(found, problems)
    name = merge(chain)[0].get("run.name")
    yield (found.stem if name in (None, UNREADABLE) else str(name)), chain


def base_of(own: Overlay, path: Path, problems: Problems) -> list[Overlay]:
    """What the file extends."""
    if own.extends is None:
        return []
    base = find_base(own.extends, path.parent)
    if base is not None:
        return read_chain(base, problems)
    valid, hint = missing_file(own.extends, shipped_recipes(), path.parent)
    problems.add(f"there is no recipe '{own.extends}'", where=own.places[EXTENDS], key=EXTENDS, valid=valid, hint=hint)
    return []


def one_task(name: str, overlays: Sequence[Overlay], path: Path, problems: Problems) -> LoadedRecipe | None:
    """The recipe of one task, called by its name; None where something is wrong with it, which is then among the problems."""
    named, told, own = Overlay({"run.name": name}), [], Problems()
    if chooses_nothing(overlays):
        overlays, told = [read_file(shipped_recipes()[NOTHING_CHOSEN], own), *overlays], [TOLD_NOTHING_CHOSEN]
    try:
        return put_together(LoadedRecipe(Recipe(), name, path, told=told), [*overlays, named], own)
    except RecipeError as error:
        for each in error.problems:
            problems.add(each.what, where=each.where, key=each.key, valid=each.valid, hint=each.hint)
        return None


def check_name(name: str, where: str, problems: Problems) -> None:
    """A task's folder is called by its name."""
    pattern = recipe_keys()["run.name"].rule.pattern
    if pattern is not None and not re.fullmatch(pattern[0], name):
        problems.add(f"'{name}' cannot be a task's name", where=where, key=SEQUENCE, valid=pattern[1])


def check_names(names: Sequence[str], where: str) -> None:
    """RecipeError for fewer than two tasks, or two of one name."""
    if len(names) < 2:
        what = f"has {'one task' if names else 'no task'}, and nothing is learnt after it"
        raise RecipeError(
            what, where=where, key=SEQUENCE, valid="two tasks or more", hint="lorakit train with its recipe"
        )
    for name in names:
        if names.count(name) > 1:
            what = f"names the task {name} twice"
            raise RecipeError(
                what, where=where, key=SEQUENCE, valid="tasks of different names", hint="run.name in a recipe"
            )


@cache
def continual_keys() -> dict[str, Key]:
    """The keys of the section ``continual``, by name."""
    hints = get_type_hints(ContinualSection)
    return {
        each.name: read_key(f"{CONTINUAL}.{each.name}", hints[each.name], each.default, each.metadata["rule"])
        for each in fields(ContinualSection)
    }


def read_continual(
    node: yaml.Node | None, place: Place, overrides: Sequence[str], problems: Problems
) -> ContinualSection:
    """The section ``continual`` of the file, and what KEY=VALUE says of it."""
    found: list[tuple[str, str, yaml.Node, Place]] = []

    def add_all(section: yaml.Node, place: Place) -> None:
        if isinstance(section, yaml.MappingNode):
            found.extend((*each, place) for each in pairs(section, f"{CONTINUAL}.", place, problems))
            return
        where, valid = place(section.start_mark.line + 1), f"keys {', '.join(continual_keys())}"
        named = isinstance(section, yaml.ScalarNode) and section.value in SETTINGS
        hint = f"{CONTINUAL}.method={section.value}" if named else ""
        problems.add(f"is {described(section)}", where=where, key=CONTINUAL, valid=valid, hint=hint)

    def on_the_line(line: int) -> str:
        return COMMAND_LINE

    if node is not None:
        add_all(node, place)
    for text in overrides:
        whole = text.strip().startswith(f"{CONTINUAL}=")
        name, _, value = text.strip().removeprefix(f"{CONTINUAL}.").partition("=")
        written_so = parse(value, on_the_line, problems)
        if written_so is not None and whole:
            add_all(written_so, on_the_line)
        elif written_so is not None:
            found.append((name.strip(), COMMAND_LINE, written_so, on_the_line))
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, where, value_node, at in found:
        places[name] = where
        if name in continual_keys():
            values[name] = read_value(continual_keys()[name], value_node, at, problems)
        else:
            what, hint = f"section '{CONTINUAL}' has no key '{name}'", nearest(name, continual_keys())
            problems.add(what, where=where, key=f"{CONTINUAL}.{name}", valid=", ".join(continual_keys()), hint=hint)
    given = {name: value for name, value in values.items() if value not in (None, UNREADABLE)}
    section = ContinualSection(**given)
    for name in given.keys() - {"method"} - SETTINGS[section.method].keys():
        owner = next(method for method, own in SETTINGS.items() if name in own)
        what = f"is for method {owner}, and this one is {section.method}"
        problems.add(what, where=places[name], key=f"{CONTINUAL}.{name}", hint=f"{CONTINUAL}.method={owner}")
    return replace(section, **(SETTINGS[section.method] | {name: given[name] for name in given if name != "method"}))
