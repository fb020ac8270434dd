"""From whatever names a recipe to its typed values: defaults < search preset < extended recipe < file < KEY=VALUE.

Of the three ways to state the search budget, the one that the last of them uses takes the place of the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf

from lorakit.errors import LorakitError, RecipeError
from lorakit.recipe.document import SUFFIXES, missing_file, shown
from lorakit.recipe.draft import Draft
from lorakit.recipe.keys import key_values, recipe_keys, section_keys
from lorakit.recipe.overlays import Overlay, as_list, read_file, read_overrides
from lorakit.recipe.problems import Problems
from lorakit.recipe.rules import BUDGETS, check
from lorakit.recipe.schema import SEARCH_PRESETS, AdapterSection, Recipe
from lorakit.recipe.values import UNREADABLE, written
from lorakit.recipe.vocabulary import methods, proxies


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that is right in itself, and where each of its values was written.

    recipe: the typed values, ``run.name`` filled in; name: the file's stem; path: the file; places: key or section -> place;
    folder: of the run whose recipe it is, where a run was named; told: what to tell a person who named data, and no recipe.
    """

    recipe: Recipe
    name: str
    path: Path
    places: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    told: list[str] = field(default_factory=list)

    def where(self, key: str) -> str:
        """``file.yaml:12`` or ``command line``: the place of ``key``, else of its section, else the file."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return shown(self.path)

    def locate(self, error: LorakitError) -> LorakitError:
        """The same error, its problems about a recipe key completed with the place of that key."""
        return type(error)(
            [
                replace(problem, where=self.where(problem.key)) if problem.key and not problem.where else problem
                for problem in error.problems
            ]
        )

    @contextmanager
    def locating_errors(self) -> Iterator[None]:
        """Errors about a recipe's key that leave this block have the file and line where it stands."""
        try:
            yield
        except LorakitError as error:
            raise self.locate(error) from error.__cause__

    def to_yaml(self) -> str:
        """The recipe with every default spelt out; loading this text gives an equal recipe."""
        lines = [f"# {self.name}, with every default spelt out. To train it: lorakit train THIS_FILE"]
        for section, values in asdict(self.recipe).items():
            lines += ["", f"{section}:"]
            for name, value in values.items():
                if isinstance(value, dict) and value:
                    lines += [f"  {name}:", *(f"    {written(key)}: {written(item)}" for key, item in value.items())]
                else:
                    lines.append(f"  {written(name)}: {written(value)}")
        return "\n".join(lines) + "\n"


CHOICES = ("adapter", "search", "training")
NOTHING_CHOSEN = "auto"
TOLD_NOTHING_CHOSEN = (
    f"it says nothing of {', '.join(CHOICES)}: they are those of the shipped recipe '{NOTHING_CHOSEN}'"
)
"""The sections, the shipped recipe that one without them extends, and what a person is told then."""

AnyRecipe = str | Path | LoadedRecipe
"""What a function takes for a recipe: a shipped recipe's name, a YAML file, a run's folder, a file of data, or a recipe that is loaded."""


def load_recipe(recipe: AnyRecipe, overrides: Sequence[str] = (), *, offline: bool = False) -> LoadedRecipe:
    """Read a recipe, check it, and fill in what it leaves open.

    Args:
        recipe: the name of a shipped recipe, a YAML file, a run's folder, a file of texts and labels, or a recipe that is loaded.
        overrides: ``KEY=VALUE`` each, which win over the recipe.
        offline: never touch the network; the same as ``run.offline=true``.

    Returns:
        The typed values, in ``.recipe``, and where each of them was written.

    Raises:
        RecipeError: with everything that is wrong in any of them; each problem has its place and key.
        DataError: for a file of data whose columns cannot be told.

    Example:
        >>> loaded = lorakit.load_recipe("demo", ["adapter.rank=4"])           # doctest: +SKIP
        >>> loaded.recipe.adapter.rank                                         # doctest: +SKIP
        4
    """
    settings = [*as_list(overrides), *(["run.offline=true"] if offline else [])]
    problems, given = Problems(), None
    if isinstance(recipe, LoadedRecipe):
        if not settings:
            return recipe
        loaded, overlays = recipe, [own_values(recipe)]
    elif (folder := run_folder(recipe)) is None and names_data(recipe):
        from lorakit.recipe.own_data import BASE, read_own_data

        given = read_overrides(settings, problems)
        problems.raise_if_any()
        made, told = read_own_data(str(recipe), given.values, problems)
        overlays = [read_file(shipped_recipes()[BASE], problems), made]
        loaded = LoadedRecipe(Recipe(), made.values["run.name"], Path(recipe), told=told)
    else:
        path = find_recipe(recipe) if folder is None else folder / "recipe.yaml"
        overlays = read_chain(path, problems)
        loaded = LoadedRecipe(Recipe(), path.stem, path, folder=folder)
        if chooses_nothing(overlays):
            overlays.insert(0, read_file(shipped_recipes()[NOTHING_CHOSEN], problems))
            loaded = replace(loaded, told=[TOLD_NOTHING_CHOSEN])
    return put_together(loaded, [*overlays, given or read_overrides(settings, problems)], problems)


def put_together(loaded: LoadedRecipe, overlays: Sequence[Overlay], problems: Problems) -> LoadedRecipe:
    """``loaded`` with the recipe that the overlays make, later ones over earlier ones. RecipeError with all that is wrong."""
    values, places = merge(overlays)
    loaded = replace(loaded, places=places)
    if all(overlay.complete for overlay in overlays):
        check(Draft(values, loaded.where), problems)
    problems.raise_if_any()
    if values.get("run.name") is None:
        values["run.name"] = loaded.name
    return replace(loaded, recipe=with_usual(build(values)))


def chooses_nothing(overlays: Sequence[Overlay]) -> bool:
    """Whether a recipe names model and data and leaves all else to lorakit; what cannot be read may say anything."""
    if not all(overlay.complete for overlay in overlays) or any(overlay.of_run for overlay in overlays):
        return False
    return not {path.partition(".")[0] for overlay in overlays for path in overlay.places}.intersection(CHOICES)


def run_folder(recipe: str | Path) -> Path | None:
    """The folder of the run that is named, where it is one."""
    folder = Path(os.path.expanduser(recipe))
    return folder if str(recipe) and os.path.isfile(folder / "recipe.yaml") else None


def names_data(recipe: str | Path) -> bool:
    """Whether a person names data to make a recipe for, and no recipe. What reads data is imported where neither name nor ending tells."""
    if str(recipe) in shipped_recipes() or str(recipe).endswith(SUFFIXES):
        return False
    from lorakit.recipe.own_data import is_data

    return is_data(recipe)


def own_values(loaded: LoadedRecipe) -> Overlay:
    """What a loaded recipe sets itself. What nobody wrote and is as it always is, its method's usual rank say, is left open again."""
    usual = key_values(with_usual(Recipe(adapter=AdapterSection(method=loaded.recipe.adapter.method))))
    values = key_values(loaded.recipe)
    own = {path: value for path, value in values.items() if path in loaded.places or value != usual[path]}
    return Overlay(own, dict(loaded.places))


def with_usual(recipe: Recipe) -> Recipe:
    """The recipe with its method's usual targets, rank, alpha and learning rate where it gives none."""
    method = methods().get(recipe.adapter.method)
    lr = method.lr if recipe.training.lr is None else recipe.training.lr
    return replace(recipe, adapter=method.fill(recipe.adapter), training=replace(recipe.training, lr=lr))


def build(values: dict[str, Any]) -> Recipe:
    """The dataclasses from checked values by key path. What is not the default has the type of its key, by ``typed``."""
    given: dict[str, dict[str, Any]] = {section: {} for section in section_keys()}
    for path, value in values.items():
        section, name = path.split(".")
        if repr(value) != usual_values()[path]:
            given[section][name] = typed(path, value)
    return Recipe(**{section: section_type(section)(**names) for section, names in given.items()})


def typed(path: str, value: Any) -> Any:
    """A key's value as its type has it, by OmegaConf's strict structured merge: 1 epoch is 1.0, and a list is the recipe's own.

    A merge takes a millisecond and a recipe is read again and again, so what has the type already is not merged.
    """
    key = recipe_keys()[path]
    if key.shape == "one" and type(value) is key.kind:
        return value
    if key.shape == "list" and type(value) is list and all(type(item) is key.kind for item in value):
        return list(value)
    if key.shape == "mapping" and type(value) is dict and all(type(item) is key.kind for item in value.values()):
        return dict(value)
    made: Any = OmegaConf.to_object(OmegaConf.merge(structure(path), {"value": value}))
    return made.value


@cache
def usual_values() -> dict[str, str]:
    """Each key's default as ``repr`` writes it, which tells 1 from 1.0 and True."""
    return {path: repr(key.default) for path, key in recipe_keys().items()}


@cache
def section_type(section: str) -> type[Any]:
    """The dataclass of one section."""
    return cast(type[Any], get_type_hints(Recipe)[section])


@cache
def structure(path: str) -> DictConfig:
    """A key's type as OmegaConf knows it, of one value; a merge copies what it is given, and a section has fifty."""
    section, name = path.split(".")
    return OmegaConf.structured(make_dataclass("Value", [("value", get_type_hints(section_type(section))[name])]))


def merge(overlays: Sequence[Overlay]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and places of all overlays, later ones over earlier ones; below all of them the search preset that they name."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for overlay in overlays:
        if any(overlay.values.get(path) is not None for path in BUDGETS):
            for path in BUDGETS:
                values.pop(path, None)
                places.pop(path, None)
        values |= overlay.values
        places |= overlay.places
    preset = values.get("search.preset")
    if preset is None or preset is UNREADABLE:
        return values, places
    below = preset_values(preset, values)
    return below | values, dict.fromkeys(below, places["search.preset"]) | places


def preset_values(preset: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the search preset sets below ``values``: no second budget, and no options that the proxy they choose does not have."""
    below = dict(SEARCH_PRESETS[preset])
    if any(values.get(path) is not None for path in BUDGETS):
        below = {path: value for path, value in below.items() if path not in BUDGETS}
    if "search.proxy_options" in below:
        proxy = values.get("search.proxy", recipe_keys()["search.proxy"].default)
        has = () if proxy is UNREADABLE else proxies().get(proxy).options
        options = below["search.proxy_options"]
        below["search.proxy_options"] = {name: value for name, value in options.items() if name in has}
    return below


def read_chain(path: Path, problems: Problems) -> list[Overlay]:
    """A recipe and all that it extends, the base first."""
    overlays: list[Overlay] = []
    seen: list[Path] = []
    while True:
        seen.append(path.resolve())
        overlay = read_file(path, problems)
        overlays.insert(0, overlay)
        if overlay.extends is None:
            return overlays
        base = find_base(overlay.extends, path.parent)
        where = overlay.places["extends"]
        if base is None:
            valid, hint = missing_file(overlay.extends, shipped_recipes(), path.parent)
            problems.add(f"there is no recipe '{overlay.extends}'", where=where, key="extends", valid=valid, hint=hint)
        elif base.resolve() in seen:
            circle = " -> ".join(shown(step) for step in (*seen[seen.index(base.resolve()) :], base.resolve()))
            problems.add(
                f"goes in a circle: {circle}", where=where, key="extends", valid="a recipe that ends the chain"
            )
        else:
            path = base
            continue
        overlay.complete = False
        return overlays


def find_base(name: str, folder: Path) -> Path | None:
    """The recipe that ``extends: name`` means in a file of ``folder``: a bare word is a shipped recipe first, a path a file."""
    beside = [folder / name, folder / f"{name}.yaml"]
    files = [path for path in beside if os.path.isfile(path)]
    known = shipped_recipes().get(name.removesuffix(".yaml"))
    shipped = [known] if known else []
    found = [*files, *shipped] if is_path(name) else [*shipped, *files]
    return found[0] if found else None


def is_path(name: str) -> bool:
    """Whether ``name`` is written as a path rather than as a recipe's name."""
    return "/" in name or "\\" in name or name.endswith(SUFFIXES)


def find_recipe(name_or_path: str | Path) -> Path:
    """The file that a person means: a shipped recipe's name, with or without ``.yaml``, or a path.

    Raises RecipeError that lists the shipped recipes and the nearest name.
    """
    name = str(name_or_path)
    full = os.path.expanduser(name)
    known = shipped_recipes().get(name.removesuffix(".yaml"))
    if known and not (is_path(name) and os.path.isfile(full)):
        return known
    for path in (full, f"{full}.yaml"):
        if os.path.isfile(path):
            return Path(path)
    if name and os.path.exists(full):
        return Path(full)
    valid, hint = missing_file(name, shipped_recipes(), Path(full).parent)
    what = "there is no such file" if is_path(name) else "there is no recipe of this name"
    raise RecipeError(what, where=name or "''", valid=valid, hint=hint)


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with lorakit: inside the installed package, else in the source tree beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    folder = inside if inside.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
