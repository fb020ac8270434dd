"""A trained model from disk: a run's adapter on its backbone, a merged folder, or any sequence-classification checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.attach import NO_SITE_STATISTICS
from lorakit.artifacts.adapter_file import OURS, PEFT_CONFIG, load_adapter, put_states, told_adapter
from lorakit.artifacts.base_file import kept_precisions, load_base
from lorakit.artifacts.calibration_file import read_temperature, temperature_in
from lorakit.artifacts.merge import read_merged, restore_shortcuts
from lorakit.artifacts.records import read_record, reading
from lorakit.artifacts.run import Run, open_run
from lorakit.artifacts.ternary_file import flat, is_ternary, load_ternary, starts_drawn
from lorakit.backbone.config_and_tokenizer import problem_type
from lorakit.backbone.load import load_backbone
from lorakit.backbone.readout import PAIR
from lorakit.backbone.shared import SharedBackbone
from lorakit.backbone.trained_head import HEAD_KEY, KEEP
from lorakit.errors import RecipeError, RunError, UsageError, command_line
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.recipe.schema import ModelSection, Recipe, TaskSection
from lorakit.tasks.task import Task, TaskData
from lorakit.workflow.cut_to_rank import cut_to_rank
from lorakit.workflow.parts import Parts, load_data
from lorakit.workflow.same_data import check_same_base, check_same_data
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.trained import TrainedClassifier

logger = logging.getLogger(__name__)

TRUST = "LORAKIT_TRUST_REMOTE_CODE"
"""The environment variable that lets a run's model execute its own code."""


@dataclass(frozen=True)
class RestoredRun:
    """A run's recipe, data and trained model; weights: which of its weights these are, ``last`` or ``best``.

    temperature: for their probabilities; 1 where they are cut to a rank, for which none was fitted; start: what each adapter tensor was
    before, flat, where that was asked for; head: the head and other new parts as they started, by name, where these were.
    """

    run: Run
    loaded: LoadedRecipe
    parts: Parts
    adapted: AdaptedModel
    weights: str
    temperature: float = 1.0
    start: list[torch.Tensor] | None = None
    head: Mapping[str, torch.Tensor] = field(default_factory=dict)


def restore_run(
    path: str | Path,
    weights: str | None,
    *,
    offline: bool = False,
    with_data: bool = True,
    rank: int | None = None,
    splits: Sequence[str] | None = None,
    start: Literal["none", "own", "drawn"] = "none",
    shared: SharedBackbone | None = None,
    head: bool = False,
) -> RestoredRun:
    """Build the run's model from its recipe and put the ``last`` or ``best`` adapter in, cut to ``rank`` where one is given.

    Where no weights are named they are those that the run's recipe selects (``open_trained``).
    Without data nothing of the training files is read: the task is the one that the run wrote down. With ``splits`` it is enough
    that the rows of these are there. start: whether to keep what the adapter starts from, and whether the recipe's init draws it; shared:
    what other models on the same frozen tensors have in common; head: whether to keep what the new parts start from.
    """
    run, which = open_trained(path, weights)
    folder = run.weights(which)
    loaded = load_recipe(run.recipe, offline=offline)
    check_trust(loaded)
    data = same_labels(run, loaded, splits) if with_data else TaskData(run.task(), {}, str(run.path))
    parts = assemble(loaded, data, precisions=kept_precisions(run, loaded.recipe), shared=shared)
    check_same_base(run, parts.backbone)
    drawn = start == "drawn" or starts_drawn(folder)
    adapted = adapt(parts, statistics=NO_SITE_STATISTICS if drawn else None)
    load_base(adapted, run)
    new = {name: adapted.model.get_parameter(name).detach().clone() for name in adapted.new_parts if head}
    before = None
    if start != "none":
        put_states(adapted, folder)
        before = flat(adapted)
    (load_ternary if is_ternary(folder) else load_adapter)(adapted, folder)
    warn_of_other_bases(folder, loaded.recipe.model.name)
    adapted.model.eval()
    temperature = read_temperature(run, which) if rank is None else 1.0
    restored = RestoredRun(run, loaded, parts, adapted, which, temperature, before, new)
    if rank is not None:
        cut_to_rank(adapted, rank, loaded.recipe.search.method, str(path))
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


def open_trained(path: str | Path, weights: str | None) -> tuple[Run, str]:
    """The run in ``path``, and which of its weights are meant. RunError where its ``last`` or ``best`` adapter is not there.

    Where none are named they are those of ``training.select``; the last ones of a run that is not finished, or has no best ones
    because it was not trained.
    """
    run = open_run(path)
    if weights is None:
        scored = run.finished and run.weights("best").is_dir()
        weights = load_recipe(run.recipe).recipe.training.select if scored else "last"
    if not run.weights(weights).is_dir():
        if run.finished and run.weights("last").is_dir():
            raise RunError("the run has no best adapter: it was made, and not trained", where=str(path), valid="last")
        hint = f"{command_line('train', path, '--resume')} finishes it"
        raise RunError(f"the run has no {weights} adapter yet", where=str(path), hint=hint)
    return run, weights


def is_merged(path: Path) -> bool:
    """Whether the folder is one that `lorakit merge` wrote."""
    return (path / OURS).is_file() and (path / "config.json").is_file()


def restore_merged(section: ModelSection) -> AdaptedModel:
    """The model of a folder, ``section.name``, that `lorakit merge` wrote, as anybody would load it, with its shortcuts."""
    folder = Path(section.name)
    labels, kind = read_labels(folder / "config.json")
    several = kind == problem_type(regression=False, multi_label=True)
    section = replace(section, head=KEEP, **kept_as(read_merged(folder)))
    backbone = load_backbone(
        section, labels=labels, regression=not labels, seed=0, offline=True, merged=True, multi_label=several
    )
    return restore_shortcuts(backbone, folder)


def kept_as(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a merged folder says of its model: what the head reads, and that rounding its weights again moves none."""
    group = record["int4_group"]
    return {"readout": record["readout"]} | (
        {"quantization": "int4", "quantization_group": group} if group is not None else {}
    )


def read_labels(path: Path) -> tuple[tuple[str, ...], str]:
    """The labels that a merged model's config.json names, in order, none where it predicts a number; and what kind of task it is for.

    RunError where it is broken.
    """
    what = "a merged model's configuration"
    config = read_record(path, what)
    with reading(path, what):
        named = {int(number): name for number, name in config["id2label"].items()}
        if sorted(named) != [*range(len(named))] or not all(isinstance(name, str) for name in named.values()):
            raise ValueError("id2label does not name each output once")
        kind = str(config.get("problem_type"))
        regression = kind == problem_type(regression=True, multi_label=False)
        return () if regression else tuple(named[number] for number in sorted(named)), kind


def read_as_trained(task: TaskSection, record: Mapping[str, Any]) -> None:
    """Texts are read as the record of a merged folder says that they were in the training."""
    task.max_length, task.long = record["max_length"], record["long"]
    task.window_pooling = record["window_pooling"]


def restore_checkpoint(name: str, task: Task, *, offline: bool) -> TrainedClassifier:
    """A trained classifier by folder or hub name, its outputs matched to the task's labels by name, or by place where names differ.

    Raises UsageError where the checkpoint's head is not one for ``task``.
    """
    recipe, merged = Recipe(model=ModelSection(name=name, head=KEEP)), is_merged(Path(name))
    if merged:
        recipe.model = replace(recipe.model, **kept_as(read_merged(Path(name))))
        if recipe.model.readout == PAIR and not task.pair:
            what = f"this checkpoint's head compares the two texts of a row, and the rows of {task.known_as} have one"
            raise UsageError(what, where=name, valid="a task of pairs")
    try:
        backbone = load_backbone(
            recipe.model,
            labels=task.labels,
            regression=task.regression,
            seed=0,
            offline=offline,
            merged=merged,
            multi_label=task.multi_label,
        )
    except RecipeError as error:
        if [problem.key for problem in error.problems] != [HEAD_KEY]:
            raise
        raise UsageError(
            f"this checkpoint has no trained head for {task.name} ({task.num_labels} outputs): {error.problems[0].what}",
            where=name,
            hint="--run for a run of lorakit, or a checkpoint that was fine-tuned on this task",
        ) from None
    if backbone.head.loud:
        logger.warning("%s", backbone.head.note)
    if not merged:
        return TrainedClassifier(AdaptedModel(backbone, {}, None), recipe, name)
    record = read_merged(Path(name))
    read_as_trained(recipe.task, record)
    return TrainedClassifier(restore_shortcuts(backbone, Path(name)), recipe, name, temperature_in(record))
