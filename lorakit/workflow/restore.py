"""A trained model from disk: a run's adapter on its backbone, a merged folder, or any sequence-classification checkpoint."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import OURS, PEFT_CONFIG, load_adapter, told_adapter
from lorakit.artifacts.merge import read_merged, restore_shortcuts
from lorakit.artifacts.records import read_record, reading
from lorakit.artifacts.run import Run, open_run
from lorakit.backbone.load import load_backbone
from lorakit.errors import RecipeError, RunError, UsageError, command_line
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import ModelSection, Recipe
from lorakit.tasks.task import Task, TaskData
from lorakit.workflow.parts import Parts, load_data
from lorakit.workflow.same_data import check_same_base, check_same_data
from lorakit.workflow.setup import adapt, assemble

logger = logging.getLogger(__name__)

EVERY_RANK = "dylora"
"""The allocator whose runs serve every rank."""
TRUST = "LORAKIT_TRUST_REMOTE_CODE"
"""The environment variable that lets a run's model execute its own code."""


@dataclass(frozen=True)
class RestoredRun:
    """A run's recipe, data and trained model."""

    run: Run
    loaded: LoadedRecipe
    parts: Parts
    adapted: AdaptedModel


def restore_run(
    path: str | Path,
    weights: str,
    *,
    offline: bool = False,
    with_data: bool = True,
    rank: int | None = None,
    splits: Sequence[str] | None = None,
) -> RestoredRun:
    """Build the run's model from its recipe and put the ``last`` or ``best`` adapter in, cut to ``rank`` where one is given.

    Without data nothing of the training files is read: the task is the one that the run wrote down. With ``splits`` it is enough
    that the rows of these are there.
    """
    run = open_trained(path, weights)
    loaded = load_recipe(run.recipe, offline=offline)
    check_trust(loaded)
    parts = assemble(loaded, same_labels(run, loaded, splits) if with_data else TaskData(run.task(), {}, str(run.path)))
    check_same_base(run, parts.backbone)
    adapted = adapt(parts, statistics=None)
    load_adapter(adapted, run.weights(weights))
    warn_of_other_bases(run.weights(weights), loaded.recipe.model.name)
    adapted.model.eval()
    restored = RestoredRun(run, loaded, parts, adapted)
    if rank is not None:
        cut_to_rank(restored, rank)
    return restored


def same_labels(run: Run, loaded: LoadedRecipe, splits: Sequence[str] | None = None) -> TaskData:
    """The run's data, as they are now. DataError where they no longer have the labels that the run learnt."""
    with loaded.locating_errors():
        data = load_data(loaded.recipe, splits=splits, learnt=run.task())
        check_same_data(run, data, ())
    return data


def check_trust(loaded: LoadedRecipe) -> None:
    """Refuse a run whose model brings its own code, but where the environment says that this person trusts it.

    A run may come from anywhere, and its recipe is not the person's own word.
    """
    if loaded.recipe.model.trust_remote_code and os.environ.get(TRUST) != "1":
        raise RecipeError(
            f"this run wants to execute code that comes with {loaded.recipe.model.name}",
            where=loaded.where("model.trust_remote_code"),
            key="model.trust_remote_code",
            hint=f"{TRUST}=1 in the environment, where you trust the run and that code",
        )


def warn_of_other_bases(folder: Path, name: str) -> None:
    """Say so where the adapter in ``folder`` was made for another model than ``name``."""
    found = {OURS: told_adapter(folder).get("model", name)}
    if (folder / PEFT_CONFIG).is_file():
        what = "the configuration of an adapter"
        found[PEFT_CONFIG] = read_record(folder / PEFT_CONFIG, what).get("base_model_name_or_path", name)
    for file, base in found.items():
        if base != name:
            logger.warning(
                "%s names the base model %s; the run's recipe says %s, and that one is used", folder / file, base, name
            )


def cut_to_rank(restored: RestoredRun, rank: int) -> None:
    """Leave every site its first ``rank`` live rank units, with the scale of that rank; one that has no more stays as it is.

    Raises UsageError for a rank above what the run has, and for adapters without rank units.
    """
    adapters = [restored.adapted.adapters[name] for name in restored.adapted.in_function]
    where, recipe = str(restored.run.path), restored.loaded.recipe
    if fixed := [adapter for adapter in adapters if not adapter.units.divisible]:
        what = f"delta '{fixed[0].spec.delta}' has no rank units to take out"
        raise UsageError(f"this run cannot be cut to a rank: {what}", where=where, hint="leave --rank out")
    highest = max((adapter.units.live for adapter in adapters), default=0)
    if not 1 <= rank <= highest:
        raise UsageError(f"this run has no rank {rank}", where=where, valid=f"1 to {highest}")
    if rank < highest and recipe.search.method != EVERY_RANK:
        logger.warning(
            "this run was not trained to be cut to rank %d: search.method=%s is what does that", rank, EVERY_RANK
        )
    for adapter in adapters:
        if adapter.units.live > rank:
            adapter.units.keep(adapter.units.mask & (adapter.units.mask.cumsum(0) <= rank))
            adapter.scale = adapter.spec.scale_at(rank)


def open_trained(path: str | Path, weights: str) -> Run:
    """The run in ``path``. RunError where its ``last`` or ``best`` adapter is not written yet."""
    run = open_run(path)
    if not run.weights(weights).is_dir():
        hint = f"{command_line('train', path, '--resume')} finishes it"
        raise RunError(f"the run has no {weights} adapter yet", where=str(path), hint=hint)
    return run


def is_merged(path: Path) -> bool:
    """Whether the folder is one that `lorakit merge` wrote."""
    return (path / OURS).is_file() and (path / "config.json").is_file()


def restore_merged(section: ModelSection) -> AdaptedModel:
    """The model of a folder, ``section.name``, that `lorakit merge` wrote, as anybody would load it, with its shortcuts."""
    folder = Path(section.name)
    labels, regression = read_labels(folder / "config.json")
    backbone = load_backbone(section, labels=labels, regression=regression, seed=0, offline=True)
    return restore_shortcuts(backbone, folder)


def read_labels(path: Path) -> tuple[tuple[str, ...], bool]:
    """The labels that a merged model's config.json names, in order, and whether it predicts a number, which has none.

    RunError where it is broken.
    """
    what = "a merged model's configuration"
    config = read_record(path, what)
    with reading(path, what):
        named = {int(number): name for number, name in config["id2label"].items()}
        if sorted(named) != [*range(len(named))] or not all(isinstance(name, str) for name in named.values()):
            raise ValueError("id2label does not name each output once")
        regression = config.get("problem_type") == "regression"
        return () if regression else tuple(named[number] for number in sorted(named)), regression


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier, wherever it came from.

    recipe: the text length and batch size it is used with; order: for each label of the task, the model's output for it;
    source: what to call it; learnt: what it learnt, where that is another task than the one it is used for.
    """

    adapted: AdaptedModel
    recipe: Recipe
    order: list[int]
    source: str
    learnt: str = ""


def output_order(task: Task, names: tuple[str, ...], source: str) -> list[int]:
    """Which output of a checkpoint stands for which label of the task: by name where the names are the same, else by place."""
    own = [name.casefold() for name in names]
    wanted = [label.casefold() for label in task.labels]
    if sorted(own) == sorted(wanted):
        return [own.index(label) for label in wanted]
    if not task.regression and not all(re.fullmatch(r"label_\d+", name) for name in own):
        logger.warning(
            "%s calls its outputs %s: taken in this order for %s", source, ", ".join(names), ", ".join(task.labels)
        )
    return list(range(task.num_labels))


def restore_checkpoint(name: str, task: Task, *, offline: bool) -> TrainedClassifier:
    """A trained classifier by folder or hub name.

    Raises UsageError where the checkpoint's head is not one for ``task``.
    """
    recipe = Recipe(model=ModelSection(name=name))
    backbone = load_backbone(recipe.model, labels=task.labels, regression=task.regression, seed=0, offline=offline)
    if not backbone.pretrained_head:
        raise UsageError(
            f"this checkpoint has no trained head for {task.name} ({task.num_labels} outputs)",
            where=name,
            hint="--run for a run of lorakit, or a checkpoint that was fine-tuned on this task",
        )
    order = output_order(task, backbone.checkpoint_labels, name)
    if not is_merged(Path(name)):
        return TrainedClassifier(AdaptedModel(backbone, {}, None), recipe, order, name)
    recipe.task.max_length = read_merged(Path(name))["max_length"]
    return TrainedClassifier(restore_shortcuts(backbone, Path(name)), recipe, order, name)
