"""``lorakit import``: a PEFT adapter folder becomes a run, for `eval`, `predict`, `merge`, `export`, and to start training from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import OUR_TENSORS, write_adapter
from lorakit.artifacts.files import folder
from lorakit.artifacts.peft.import_ import PeftAdapter, is_peft, read_peft
from lorakit.artifacts.peft.translate import fill, section_for, sites_of
from lorakit.artifacts.run import Run, new_run
from lorakit.backbone.load import load_backbone
from lorakit.backbone.model_folder import BUNDLED, bundled_folder
from lorakit.errors import LorakitError, Problem, UsageError
from lorakit.recipe.layers import read_overrides
from lorakit.recipe.load import LoadedRecipe, load_recipe, with_usual
from lorakit.recipe.problems import Problems
from lorakit.recipe.schema import CUSTOM
from lorakit.recipe.values import written
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import Task, TaskData, tasks
from lorakit.training.seeds import derive_seed
from lorakit.workflow.setup import Result, adapt, assemble, talk

CONFIG = "adapter_config.json"
TAKEN = ("adapter.", "search.")


@dataclass(frozen=True)
class ImportResult(Result):
    """What was read, and the run that it became.

    kind: PEFT's name of the method; method: lorakit's; ranks: (lowest, highest); head: whether the adapter brought it.
    """

    out: Path
    source: Path
    kind: str
    method: str
    model: str
    task: str
    sites: int
    ranks: tuple[int, int]
    adapter_parameters: int
    head: bool


def import_adapter(
    source: Path, *, task: str, out: Path | None = None, overrides: Sequence[str] = (), offline: bool = False
) -> ImportResult:
    """Make a run of the PEFT adapter in ``source``, for ``task``; ``out`` is a new folder in runs by default.

    overrides: KEY=VALUE of the recipe, such as model.name where the base model is elsewhere than the adapter says. Raises RunError or
    UsageError, and writes nothing, where the adapter is not one that lorakit can hold.
    """
    source = Path(source)
    if not source.is_dir():
        raise UsageError("there is no such folder", where=str(source))
    if (source / "recipe.yaml").exists():
        raise UsageError("is a run of lorakit: there is nothing to import", where=str(source))
    if not is_peft(source):
        raise UsageError(f"is not a PEFT adapter: it has no {CONFIG}", where=str(source))
    if (source / OUR_TENSORS).exists():
        raise UsageError(
            "is an adapter of lorakit with parts that PEFT does not have",
            where=str(source),
            hint="adapter.start takes it",
        )
    adapter = read_peft(source)
    settings = [*overrides, *(["run.offline=true"] if offline else [])]
    draft = draft_recipe(adapter, task, settings)
    target = Run(out) if out is not None else new_run(Path(draft.recipe.run.folder), draft.name, draft.recipe.run.seed)
    if target.path.exists():
        raise UsageError("is there already", where=str(target.path), hint="--out for another place")
    loaded, data = complete(draft, adapter)
    parts = assemble(loaded, data)
    adapted = adapt(parts, statistics=None)
    fill(adapted, adapter)
    write_run(target.path, loaded, parts.task, adapted, {"imported": str(source)})
    ranks = adapter.ranks.values()
    return ImportResult(
        out=target.path,
        source=source,
        kind="DoRA" if adapter.config.get("use_dora") else adapter.kind,
        method=loaded.recipe.adapter.method,
        model=loaded.recipe.model.name,
        task=parts.task.name,
        sites=len(parts.sites),
        ranks=(min(ranks), max(ranks)),
        adapter_parameters=adapted.adapter_parameters(),
        head=bool(adapter.rest),
    )


def draft_recipe(adapter: PeftAdapter, task: str, overrides: Sequence[str]) -> LoadedRecipe:
    """The recipe without its adapter section. UsageError for a task that there is not, or keys that the adapter decides."""
    if task != CUSTOM:
        tasks.get(task)
    problems = Problems()
    given = read_overrides(overrides, problems).values
    problems.raise_if_any()
    if taken := [key for key in given if key.startswith(TAKEN)]:
        raise UsageError(f"{taken[0]} is what the imported adapter decides", where="command line")
    if "task.name" in given and given["task.name"] != task:
        raise UsageError(f"task.name={given['task.name']} is not --task {task}", where="command line")
    config = str(adapter.path / CONFIG)
    base = known_as(adapter.base)
    model = given.get("model.name") or base
    if not model:
        raise UsageError("does not say which model it is for", where=config, key="model.name", hint="model.name=...")
    if base and model != base:
        talk.info("the adapter was made for %s, and is put on %s", adapter.base, model)
    elif "model.name" not in given:
        talk.info("the base model is the one that the adapter names: %s", model)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "recipe.yaml"
        path.write_text(f"model:\n  name: {written(model)}\ntask:\n  name: {written(task)}\n", encoding="utf-8")
        try:
            loaded = load_recipe(path, overrides)
        except LorakitError as error:
            raise type(error)([renamed(problem, place, config) for problem in error.problems]) from None
    name = given.get("run.name") or f"{adapter.path.resolve().name}-{task}"
    recipe = replace(loaded.recipe, run=replace(loaded.recipe.run, name=name))
    places = {key: config if where.startswith(place) else where for key, where in loaded.places.items()}
    return replace(loaded, recipe=recipe, name=name, path=Path(config), places=places)


def known_as(base: str) -> str:
    """The base model; a bundled one by its name, as the folder it is installed in is another one elsewhere."""
    folder = Path(base).expanduser()
    for name in BUNDLED if base and folder.is_dir() else ():
        with suppress(LorakitError):
            if bundled_folder(name).resolve() == folder.resolve():
                return name
    return base


def renamed(problem: Problem, place: str, config: str) -> Problem:
    """The problem at the place that the person knows."""
    return replace(problem, where=config) if problem.where.startswith(place) else problem


def complete(draft: LoadedRecipe, adapter: PeftAdapter) -> tuple[LoadedRecipe, TaskData]:
    """The recipe with the adapter section that makes just the adapter's sites, and the data, which tell the labels."""
    recipe = draft.recipe
    try:
        data = load_task(recipe.task, seed=derive_seed(recipe.run.seed, "data"), offline=recipe.run.offline)
        backbone = load_backbone(
            recipe.model, labels=data.task.labels, regression=data.task.regression, seed=0, offline=recipe.run.offline
        )
    except LorakitError as error:
        raise draft.locate(error) from error.__cause__
    section = section_for(adapter, sites_of(adapter, backbone), backbone)
    usual_lr = replace(recipe.training, lr=recipe.training.lr if "training.lr" in draft.places else None)
    return replace(draft, recipe=with_usual(replace(recipe, adapter=section, training=usual_lr))), data


def write_run(path: Path, loaded: LoadedRecipe, task: Task, adapted: AdaptedModel, origin: dict[str, Any]) -> None:
    """A finished run that was never trained: recipe, task, adapter, and a summary that says where it came from.

    It appears whole or not at all.
    """
    with folder(path) as place:
        run = Run(place)
        run.start(loaded.to_yaml(), task)
        weights = run.weights("last")
        weights.mkdir()
        write_adapter(adapted, weights)
        run.write_summary(
            {
                "run_dir": str(path),
                "task": task.name,
                "metric": task.metrics[0],
                "last": {},
                "best": {},
                "steps": 0,
                "epochs": 0.0,
                "seconds": 0.0,
                "adapter_parameters": adapted.adapter_parameters(),
                "head_parameters": adapted.head_parameters(),
                "sites_on": len(adapted.on),
                "sites_total": len(adapted.sites),
                "seed": loaded.recipe.run.seed,
                **origin,
            }
        )
        load_recipe(run.recipe)  # what was written must be readable
