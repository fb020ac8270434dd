"""A trained model from disk: a run's adapter on its backbone, a merged folder, or any sequence-classification checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.adapters.attach import AdaptedModel
from lorakit.artifacts.adapter_file import load_adapter
from lorakit.artifacts.files import read_json
from lorakit.artifacts.merge import restore_shortcuts
from lorakit.artifacts.run import Run, open_run
from lorakit.backbone.load import load_backbone
from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import ModelSection, Recipe
from lorakit.tasks.task import Task
from lorakit.workflow.building import Parts, adapt, assemble


@dataclass(frozen=True)
class RestoredRun:
    """A run's recipe, data and trained model."""

    run: Run
    loaded: LoadedRecipe
    parts: Parts
    adapted: AdaptedModel


def restore_run(path: Path, weights: str, *, offline: bool = False) -> RestoredRun:
    """Build the run's model from its recipe and put the ``last`` or ``best`` adapter in."""
    run = open_run(path)
    if not run.weights(weights).is_dir():
        raise RunError(
            f"the run has no {weights} adapter yet", where=str(path), hint=f"lorakit train {path} --resume finishes it"
        )
    loaded = load_recipe(run.recipe, ["run.offline=true"] if offline else [])
    parts = assemble(loaded)
    adapted = adapt(parts)
    load_adapter(adapted, run.weights(weights))
    adapted.model.eval()
    return RestoredRun(run, loaded, parts, adapted)


def is_merged(path: Path) -> bool:
    """Whether the folder is one that `lorakit merge` wrote."""
    return (path / "lorakit.json").is_file() and (path / "config.json").is_file()


def restore_checkpoint(name: str, task: Task, *, offline: bool) -> tuple[AdaptedModel, Recipe]:
    """A trained classifier by folder or hub name, and the recipe whose text length and precision it is used with.

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
    if is_merged(Path(name)):
        recipe.task.max_length = read_json(Path(name) / "lorakit.json")["max_length"]
        return restore_shortcuts(backbone, Path(name)), recipe
    return AdaptedModel(backbone, {}, None), recipe
