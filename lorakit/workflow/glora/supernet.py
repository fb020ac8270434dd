"""GLoRA's supernet as a run: trained on the training rows but for a held-out part, then scored on that, configuration by configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.glora import GLoRA, written
from lorakit.adapters.method import methods
from lorakit.artifacts.adapter_file import load_adapter, save_adapter
from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.files import remove_folder
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import all_checkpoints
from lorakit.errors import Interrupted
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import SearchSection
from lorakit.tasks.held_out import HELD_OUT, without_validation
from lorakit.tasks.metrics import main_metric
from lorakit.tasks.task import TaskData
from lorakit.training.evaluation import predict_logits, score_logits
from lorakit.training.hooks import Hook
from lorakit.training.seeds import derive_seed
from lorakit.workflow.accelerator import put_on_device, this_process
from lorakit.workflow.parts import Parts
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.train import train

UPDATE = "glora_supernet"
Configuration = Mapping[str, Mapping[str, str]]
"""Site -> letter -> choice."""


@dataclass
class Supernet:
    """A trained supernet. score: its metric on the held-out rows."""

    parts: Parts
    adapted: AdaptedModel
    score: Callable[[], float]
    metric: str

    @property
    def layers(self) -> dict[str, GLoRA]:
        """Site -> its GLoRA."""
        found = {name: adapter.delta for name, adapter in self.adapted.adapters.items()}
        return {name: delta for name, delta in found.items() if isinstance(delta, GLoRA)}

    @FaultPoint("configuration")
    def fitness(self, chosen: Configuration | None) -> float:
        """The metric of a configuration; of the recipe's own, everything on by default, where none is given."""
        self.configure(chosen)
        return self.score()

    def configure(self, chosen: Configuration | None) -> None:
        """Be this configuration."""
        for name, layer in self.layers.items():
            layer.configure(None if chosen is None else chosen[name])

    def tensors(self, chosen: Configuration) -> dict[str, torch.Tensor]:
        """The state of a model of that fixed configuration: what it uses of the storage, and everything else as it is."""
        self.configure(chosen)
        layers = self.layers
        own = {f"{site}.{name}" for site, layer in layers.items() for name, _, _ in layer.tensors()}
        used = {f"{site}.{name}": t.detach() for site, layer in layers.items() for name, t in layer.used().items()}
        return {name: tensor for name, tensor in self.adapted.tensors().items() if name not in own} | used


def searched_on(data: TaskData, share: float, seed: int) -> TaskData:
    """The training rows alone: a ``share`` of them, drawn by ``seed``, stands in for the validation splits."""
    found = without_validation(data, share, derive_seed(seed, "holdout"))
    return TaskData(
        replace(found.task, test=()), {name: found.splits[name] for name in ("train", HELD_OUT)}, data.origin
    )


def supernet_recipe(loaded: LoadedRecipe) -> LoadedRecipe:
    """The recipe that trains all configurations, one at random at each step."""
    recipe = loaded.recipe
    adapter = replace(
        recipe.adapter,
        options={**recipe.adapter.options, "mode": "supernet"},
        updates=[*other_updates(loaded), UPDATE],
    )
    return replace(loaded, recipe=replace(recipe, adapter=adapter, search=SearchSection()))


def other_updates(loaded: LoadedRecipe) -> list[str]:
    """The recipe's updates but for the supernet's, which only the supernet needs."""
    adapter = loaded.recipe.adapter
    names = methods.get(adapter.method).updates if adapter.updates is None else adapter.updates
    return [name for name in names if name != UPDATE]


def train_supernet(loaded: LoadedRecipe, path: Path, rows: TaskData, hooks: Sequence[Hook], again: str) -> float:
    """Train the supernet in ``path`` as far as that has not been done; the seconds it took. again: the command that goes on."""
    run = Run(path)
    if run.finished:
        seconds: float = run.summary()["seconds"]
        return seconds
    begun = bool(all_checkpoints(run.checkpoints))
    if not begun and this_process().is_main_process:
        remove_folder(path)
    this_process().wait_for_everyone()
    try:
        return train(supernet_recipe(loaded), run_dir=path, resume=begun, hooks=hooks, data=rows).seconds
    except Interrupted as stopped:
        raise Interrupted(f"the supernet {stopped.problems[0].what}", hint=again) from None


def load_supernet(loaded: LoadedRecipe, path: Path, rows: TaskData) -> Supernet:
    """The supernet as it was trained to its end."""
    parts = assemble(supernet_recipe(loaded), rows)
    adapted = adapt(parts, statistics=None)
    load_adapter(adapted, Run(path).weights("last"))
    objective = put_on_device(adapted.model, parts.recipe, regression=parts.task.regression)
    encoded, metric = parts.encode(HELD_OUT)[HELD_OUT], main_metric(parts.task)

    def score() -> float:
        logits = predict_logits(adapted.model, encoded, objective, parts.recipe.evaluation.batch_size)
        return score_logits(parts.task, logits, encoded)[metric]

    return Supernet(parts, adapted, score, metric)


def found_recipe(loaded: LoadedRecipe, chosen: Configuration, start: Path | None = None) -> LoadedRecipe:
    """The recipe that trains this configuration; start: the folder of a run to take the weights from."""
    recipe = loaded.recipe
    adapter = replace(
        recipe.adapter,
        options={},
        site_options={site: written(choices) for site, choices in chosen.items()},
        updates=other_updates(loaded),
        start=None if start is None else str(start),
    )
    found = replace(recipe, adapter=adapter, search=SearchSection(), run=replace(recipe.run, name=None))
    return replace(loaded, recipe=found)


@FaultPoint("found run")
def save_found(loaded: LoadedRecipe, supernet: Supernet, chosen: Configuration, data: TaskData, path: Path) -> int:
    """Write the configuration with the supernet's weights as a run that can be evaluated; the parameters of its adapters."""
    recipe, run = found_recipe(loaded, chosen), Run(path)
    adapted = adapt(assemble(recipe, data), statistics=None)
    adapted.load_tensors(supernet.tensors(chosen))
    run.start(recipe.to_yaml(), data.task)
    save_adapter(adapted, run.weights("last"))
    return adapted.adapter_parameters()
