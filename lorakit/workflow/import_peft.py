"""``lorakit import``: a PEFT adapter folder becomes a run, for `eval`, `predict`, `merge`, `export`, and to start training from."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import OUR_TENSORS, PEFT_CONFIG, write_adapter
from lorakit.artifacts.base_file import write_base
from lorakit.artifacts.files import folder
from lorakit.artifacts.peft.import_ import PeftAdapter, is_peft, read_peft
from lorakit.artifacts.peft.translate import fill, section_for, sites_of
from lorakit.artifacts.provenance import Provenance
from lorakit.artifacts.run import Run, new_run
from lorakit.backbone.model_folder import BUNDLED, bundled_folder
from lorakit.errors import LorakitError, Problem, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe, with_usual
from lorakit.recipe.overlays import read_overrides
from lorakit.recipe.problems import Problems
from lorakit.recipe.schema import CUSTOM
from lorakit.recipe.values import written
from lorakit.result import Result
from lorakit.tasks.task import Task, TaskData, tasks
from lorakit.workflow.parts import Parts, load_data, load_model
from lorakit.workflow.same_data import remember
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.verify import check_target

logger = logging.getLogger(__name__)

DECIDED = ("adapter.", "search.", "model.readout")
"""What of the recipe the imported adapter decides: whole sections, and that its head is the family's own."""


@dataclass(frozen=True)
class ImportResult(Result):
    """What was read, and the run that it became.

    Attributes:
        out: the run's folder.
        source: the folder that was read.
        kind: PEFT's name of the method.
        method: lorakit's.
        model: the base model.
        task: the task's name.
        sites: how many have an adapter.
        ranks: the lowest and the highest.
        adapter_parameters: of all adapters.
        head: whether the adapter brought the task's head; else it is the base model's own.
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
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    task: str,
    out: str | Path | None = None,
    offline: bool = False,
) -> ImportResult:
    """Make a run of an adapter that PEFT wrote, to evaluate, predict with, merge, export, combine, and to start a training from.

    Args:
        source: the folder that PEFT's ``save_pretrained`` wrote.
        overrides: ``KEY=VALUE`` of the recipe, such as ``model.name=...`` where the base model is elsewhere than the adapter says.
        task: what it was trained for: a task's name, or ``custom``.
        out: the run's folder; a new one in ``runs`` by default.
        offline: never touch the network; the same as ``run.offline=true``.

    Returns:
        What was read, and the run that it became.

    Raises:
        UsageError: where ``source`` is no adapter of PEFT, ``out`` exists, or the recipe is wrong.
        RunError: where lorakit cannot hold the adapter; then nothing is written.

    Example:
        >>> imported = lorakit.import_adapter("my-peft-adapter", task="mrpc")  # doctest: +SKIP
        >>> lorakit.evaluate(imported.out).scores                              # doctest: +SKIP
    """
    source = Path(source)
    if not source.is_dir():
        raise UsageError("there is no such folder", where=str(source))
    if (source / "recipe.yaml").exists():
        raise UsageError("is a run of lorakit: there is nothing to import", where=str(source))
    if (source / OUR_TENSORS).exists():
        raise UsageError(
            "is an adapter of lorakit with parts that PEFT does not have",
            where=str(source),
            hint="adapter.start takes it",
        )
    if not is_peft(source):
        raise UsageError(f"is not a PEFT adapter: it has no {PEFT_CONFIG}", where=str(source))
    adapter = read_peft(source)
    draft = draft_recipe(adapter, task, overrides, offline=offline)
    run = draft.recipe.run
    target = new_run(Path(run.folder), draft.name, run.seed).path if out is None else Path(out)
    check_target(target)
    loaded, data = complete_recipe(draft, adapter)
    parts, adapted = put_on_model(adapter, loaded, data)
    write_run(target, loaded, parts.task, adapted, {"imported": str(source)}, remember(parts.data, parts.backbone))
    ranks = adapter.ranks.values()
    return ImportResult(
        out=target,
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


def draft_recipe(adapter: PeftAdapter, task: str, overrides: Sequence[str], *, offline: bool = False) -> LoadedRecipe:
    """The recipe without its adapter section. UsageError for a task that there is not, or keys that the adapter decides."""
    if task != CUSTOM:
        tasks.get(task)
    problems = Problems()
    given = read_overrides(overrides, problems).values
    problems.raise_if_any()
    if taken := [key for key in given if key.startswith(DECIDED)]:
        raise UsageError(f"{taken[0]} is what the imported adapter decides", where="command line")
    if "task.name" in given and given["task.name"] != task:
        raise UsageError(f"task.name={given['task.name']} is not --task {task}", where="command line")
    config = str(adapter.path / PEFT_CONFIG)
    base = portable_name(adapter.base)
    model = given.get("model.name") or base
    if not model:
        raise UsageError("does not say which model it is for", where=config, key="model.name", hint="model.name=...")
    if base and model != base:
        logger.info("the adapter was made for %s, and is put on %s", adapter.base, model)
    elif "model.name" not in given:
        logger.info("the base model is the one that the adapter names: %s", model)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "recipe.yaml"
        named = f"model:\n  name: {written(model)}\ntask:\n  name: {written(task)}\n"
        # That nothing is searched is said: who chooses nothing gets what ``auto`` chooses, and here the adapter has chosen.
        path.write_text(f"{named}search:\n  method: none\n", encoding="utf-8")
        try:
            loaded = load_recipe(path, overrides, offline=offline)
        except LorakitError as error:
            raise type(error)([placed_at(problem, place, config) for problem in error.problems]) from None
    name = given.get("run.name") or f"{adapter.path.resolve().name}-{task}"
    recipe = replace(loaded.recipe, run=replace(loaded.recipe.run, name=name))
    places = {key: config if where.startswith(place) else where for key, where in loaded.places.items()}
    return replace(loaded, recipe=recipe, name=name, path=Path(config), places=places)


def portable_name(base: str) -> str:
    """The base model; a bundled one by its name, as the folder it is installed in is another one elsewhere."""
    folder = Path(os.path.expanduser(base))
    for name in BUNDLED if base and folder.is_dir() else ():
        with suppress(LorakitError):
            if bundled_folder(name).resolve() == folder.resolve():
                return name
    return base


def placed_at(problem: Problem, place: str, config: str) -> Problem:
    """The problem at the place that the person knows."""
    return replace(problem, where=config) if problem.where.startswith(place) else problem


def complete_recipe(draft: LoadedRecipe, adapter: PeftAdapter) -> tuple[LoadedRecipe, TaskData]:
    """The recipe with the adapter section that makes just the adapter's sites, and the data, which tell the labels."""
    recipe = draft.recipe
    with draft.locating_errors():
        data = load_data(recipe)
        backbone = load_model(recipe, data.task)
    section = section_for(adapter, sites_of(adapter, backbone), backbone)
    usual_lr = replace(recipe.training, lr=recipe.training.lr if "training.lr" in draft.places else None)
    return replace(draft, recipe=with_usual(replace(recipe, adapter=section, training=usual_lr))), data


def put_on_model(adapter: PeftAdapter, loaded: LoadedRecipe, data: TaskData) -> tuple[Parts, AdaptedModel]:
    """The model of a recipe whose adapter section was made for the adapter, with the adapter's tensors in it."""
    parts = assemble(loaded, data)
    adapted = adapt(parts, statistics=None)
    fill(adapted, adapter)
    return parts, adapted


def write_run(
    path: Path,
    loaded: LoadedRecipe,
    task: Task,
    adapted: AdaptedModel,
    origin: dict[str, Any],
    provenance: Provenance | None,
    write: Callable[[AdaptedModel, Path], None] = write_adapter,
) -> None:
    """A finished run that was never trained: recipe, task, adapter, and a summary that says where it came from.

    It appears whole or not at all. write: writes the adapter's files.
    """
    with folder(path) as place:
        run = Run(place)
        run.start(loaded.to_yaml(), task, provenance)
        weights = run.weights("last")
        weights.mkdir()
        write(adapted, weights)
        write_base(adapted, run)
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
