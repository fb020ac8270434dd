"""How far weights are from the pretrained ones at every point of a training that its run has kept (Liu et al. 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import load_adapter, read_tensors
from lorakit.artifacts.standing import all_checkpoints
from lorakit.artifacts.ternary_file import is_ternary
from lorakit.reporting.analysis.measures import change, directions_of, random_update
from lorakit.reporting.analysis.records import BEST, LAST, Moved
from lorakit.reporting.summary import listed
from lorakit.training.checkpoint import MODEL, intact
from lorakit.workflow.analysis.updates import WeightUpdate, updates_of
from lorakit.workflow.restore import RestoredRun

ENOUGH = 4
"""Points of a training from which on a line through them means something."""


def moved_weights(restored: RestoredRun, ranks: Mapping[str, int]) -> tuple[list[Moved], list[str], list[str]]:
    """What every site with a weight has moved by at every point, the names of the points, and what to know of them.

    ranks: site -> the rank of its update in the weights that are looked at. The model has the weights of the last point afterwards.
    """
    found: list[Moved] = []
    points: list[str] = []
    damaged: list[str] = []
    if not ranks:
        return found, points, []
    for when in turned_to(restored, damaged):
        points.append(when)
        found += moved_now(restored.adapted, when, ranks)
    notes = [f"Damaged, and left out: {listed(damaged)}."] if damaged else []
    return found, points, notes + ([why_few(restored)] if len(points) < ENOUGH else [])


def turned_to(restored: RestoredRun, damaged: list[str]) -> Iterator[str]:
    """The name of every point in order, each once the model has its weights; a point that is two, as best and last, once.

    Those that cannot be read go to ``damaged``.
    """
    run, adapted = restored.run, restored.adapted
    if is_ternary(run.weights(restored.weights)):
        yield restored.weights
        return
    summary = run.summary() if run.finished else {}
    last, best = (f"step-{summary.get(key, 0)}" for key in ("steps", "best_step"))
    if restored.loaded.recipe.search.method == "none":
        for path in all_checkpoints(run.checkpoints):
            when = path.name.replace("-", " ")
            if path.name in (last, best):
                continue
            if not intact(path):
                damaged.append(when)
                continue
            adapted.load_tensors(read_tensors(path / MODEL))
            yield when
    for which in [BEST, LAST] if best != last else [LAST]:
        if run.weights(which).is_dir():
            load_adapter(adapted, run.weights(which))
            yield which


def moved_now(adapted: AdaptedModel, when: str, ranks: Mapping[str, int]) -> list[Moved]:
    """dM and dD of every site that has a weight and an update now, and of a random update of the same norm and rank."""
    found, numbers = [], {name: number for number, name in enumerate(ranks)}
    for update in updates_of(adapted):
        if update.weight is None:
            continue
        site, dense = update.site, update.dense
        shape = (site.out_features, site.in_features)
        generator = torch.Generator().manual_seed(numbers.get(site.name, len(numbers)))
        drawn = dense.norm() * random_update(shape, rank_of(update, ranks), generator)
        real, chance = (change(update.weight, update.weight + each) for each in (dense, drawn))
        found.append(Moved(site.name, site.layer, site.role, when, *real, *chance))
    return found


def rank_of(update: WeightUpdate, ranks: Mapping[str, int]) -> int:
    """The rank of an update: its factors' now; of a dense one, where it takes long to find, that of the site in ``ranks``."""
    known = ranks.get(update.site.name) if update.factors is None else None
    return directions_of(update.compact).rank if known is None else known


def why_few(restored: RestoredRun) -> str:
    """Why there are few points, and how to have more."""
    if restored.loaded.recipe.search.method != "none":
        return "What a checkpoint had switched on is in the search's own state: the best and the last weights alone are looked at."
    keep, there = restored.loaded.recipe.run.keep_checkpoints, all_checkpoints(restored.run.checkpoints)
    kept = f"the run kept its newest {keep} checkpoints" if there else "the run has no checkpoints"
    return (
        f"Few points of the training are there: {kept}. run.keep_checkpoints=20 with run.checkpoint_every=0.1 keeps more of "
        "the next one."
    )
