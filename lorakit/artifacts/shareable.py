"""A run's files for others: what loading needs and what the run came to, without rows, digests of rows, or places of this machine.

    recipe.yaml task.json summary.json data.json environment.json    places are told by their last names
    metrics.jsonl timeline.jsonl calibration.json rate.json readout.json rank_curve.json report/*.png
    adapter/ or best/    the weights that are used, and base/ where the run has quantised weights of its own

Left where they are: proof_rows.jsonl (texts), data_rows.safetensors (a digest of each text), checkpoints, the page (its recipe has places).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import read_json, write_json, write_text
from lorakit.artifacts.provenance import DATA, NOT_SHARED, read_provenance
from lorakit.artifacts.run import READOUT, Run
from lorakit.errors import RunError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import Recipe
from lorakit.tasks.data_sets import HUB

RECORDS = ("summary.json", "task.json", "calibration.json", "rate.json", READOUT, "rank_curve.json")
LINES = ("metrics.jsonl", "timeline.jsonl")
OF_THE_PROGRAM = ("python", "packages")
"""What is told of the environment."""
MADE_OF = ("run_dir", "imported", "combined", "compressed", "quantised")
"""Entries of a summary that name folders."""
NAMED_BY_DATA = ("labels", "label", "text", "label_columns")
"""Entries that are the data's own words, whatever they look like."""
SHORTEST = 20  # characters of a text that is looked for in what is to be passed on
WHOLE_PATH = re.compile(r"(?<![\w.:/-])/[^,;()]*[^,;()\s]")
LARGEST = 2**26  # bytes of a file that is looked through whole


def shareable_recipe(loaded: LoadedRecipe, base: str) -> Recipe:
    """The recipe with the last names of places on this machine, online elsewhere; base: what others call the base model."""
    recipe = loaded.recipe
    task = recipe.task
    files: dict[str, Any] = {
        key: last_name(value) for key in ("train", "validation", "test") if (value := getattr(task, key))
    }
    start = recipe.adapter.start
    return replace(
        recipe,
        model=replace(recipe.model, name=base),
        task=replace(task, data="hub" if task.data == "hub" else "auto", **files),
        adapter=replace(
            recipe.adapter,
            start=None if start is None else last_name(start),
            experts=[last_name(each) for each in recipe.adapter.experts],
        ),
        run=replace(recipe.run, folder="runs", offline=False),
    )


def last_name(place: str) -> str:
    """A file's or folder's own name; a data set of the hub as it is."""
    return place if place.startswith(HUB) else Path(os.path.abspath(place)).name


def places_of(run: Run, loaded: LoadedRecipe) -> dict[str, str]:
    """Places that the run's files name on this machine -> what others are told instead, the longest first: a place may begin another."""
    task, adapter, provenance = loaded.recipe.task, loaded.recipe.adapter, read_provenance(run.path)
    summary = run.summary() if run.finished else {}
    named = [
        task.train,
        task.validation,
        task.test,
        task.data,
        adapter.start,
        *adapter.experts,
        loaded.recipe.run.folder,
    ]
    named += texts_in([summary.get(key) for key in MADE_OF])
    if provenance is not None:
        named += [split.get("file") for split in provenance.told["splits"].values()]
        named += texts_in([expert.get("run") for expert in provenance.told.get("experts", ())])
    found = {each for each in named if each is not None and os.sep in each and not each.startswith(HUB)}
    found |= {each for each in texts_in(summary) if os.path.isabs(each)}
    found |= {str(run.path.resolve())}
    return {path: last_name(path) for path in sorted(found, key=len, reverse=True)}


def without_places(text: str, places: Mapping[str, str]) -> str:
    """The text with the last names of places."""
    for path, name in places.items():
        text = text.replace(path, name)
    return text


def public_origin(origin: str, places: Mapping[str, str]) -> str:
    """What data.json tells of where rows came from, with the last names of places, also of one that only the environment named."""
    return WHOLE_PATH.sub(lambda found: last_name(found[0]), without_places(origin, places))


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value of JSON."""
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)
    elif isinstance(value, str):
        yield value


@dataclass(frozen=True)
class Renaming:
    """What is told otherwise: places, wherever they stand in a text, and the base model's name where it stands alone; never a label."""

    places: Mapping[str, str]
    model: str
    base: str

    def __call__(self, value: Any) -> Any:
        """The same value of JSON with that done to every text in it."""
        if isinstance(value, dict):
            return {key: item if key in NAMED_BY_DATA else self(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item) for item in value]
        if not isinstance(value, str):
            return value
        if value == self.model:
            return self.base
        return without_places(value, self.places)


def write_shareable(run: Run, loaded: LoadedRecipe, weights: str, base: str, target: Path) -> None:
    """Write the run's files for others into an existing folder. weights: ``last`` or ``best``; base: what others call the base model."""
    renamed = Renaming(places_of(run, loaded), loaded.recipe.model.name, base)
    recipe = shareable_recipe(loaded, base)
    write_text(target / "recipe.yaml", replace(loaded, recipe=recipe).to_yaml())
    for name in RECORDS:
        if (run.path / name).is_file():
            write_json(target / name, renamed(read_json(run.path / name)))
    for name in LINES:
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, target / name)
    environment = run.path / "environment.json"
    if environment.is_file():
        told = read_json(environment)
        write_json(target / "environment.json", {name: told[name] for name in OF_THE_PROGRAM if name in told})
    provenance = read_provenance(run.path)
    if provenance is not None:
        origin = public_origin(str(provenance.told["origin"]), renamed.places)
        write_json(target / DATA, renamed(dict(provenance.told)) | {"origin": origin, NOT_SHARED: True})
    copy_weights(run.weights(weights), target / run.weights(weights).name, renamed)
    if run.base.is_dir():
        copy_weights(run.base, target / run.base.name, renamed)


def copy_weights(source: Path, target: Path, renamed: Renaming) -> None:
    """An adapter's tensors, and what it tells of them."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            shutil.copyfile(path, target / path.name)
        elif path.suffix == ".json":
            write_json(target / path.name, renamed(read_json(path)))


def copy_figures(run: Run, names: Iterable[str], target: Path) -> None:
    """Figures of the run's report that are there."""
    for name in names:
        if (run.report / name).is_file():
            (target / run.report.name).mkdir(exist_ok=True)
            shutil.copyfile(run.report / name, target / run.report.name / name)


def check_nothing_private(target: Path, run: Run, places: Iterable[str]) -> None:
    """RunError where a file in ``target`` holds a place of this machine, as the person's home, or a text of the run's data."""
    provenance = read_provenance(run.path)
    texts = [] if provenance is None else [text for row in provenance.proof for text in row.values()]
    above = [f"{folder}{os.sep}" for folder in (Path.home(), Path.cwd()) if len(folder.parts) > 1]
    secret = dict.fromkeys((*filter(os.path.isabs, places), *above), "a place of this machine")
    secret |= dict.fromkeys((text for text in texts if len(text) >= SHORTEST), "a text of the run's data")
    for path in sorted(each for each in target.rglob("*") if each.is_file()):
        content = words_of(path)
        told = texts_in(read_json(path)) if path.suffix == ".json" and len(content) < LARGEST else ()
        there = {text: "a place of this machine" for text in told if os.path.isabs(text) and os.path.lexists(text)}
        for text, what in (secret | there).items():
            ways = {text, json.dumps(text)[1:-1]}
            if any(way.encode("utf-8", "surrogatepass") in content for way in ways):
                raise RunError(f"{path.relative_to(target)} holds {what}, so nothing goes", where=text[:80])


def words_of(path: Path) -> bytes:
    """What a file may hold words in: of tensors, whose numbers can look like any, the names alone."""
    with path.open("rb") as stream:
        size = LARGEST
        if path.suffix == ".safetensors":
            size = min(int.from_bytes(stream.read(8), "little"), LARGEST)
        return stream.read(size)


def files_of(folder: Path) -> dict[str, int]:
    """Each file below a folder -> its bytes, in order."""
    found: Sequence[Path] = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
