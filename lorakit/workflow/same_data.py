"""Whether what a run was made of is still there as it was: its rows, its labels, the weights of its base model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.artifacts.provenance import (
    Digests,
    Provenance,
    describe,
    leaked,
    provenance_of,
    read_provenance,
    source_of,
)
from lorakit.artifacts.run import Run
from lorakit.backbone.load import Backbone
from lorakit.backbone.model_folder import weight_digests
from lorakit.errors import DataError, RunError
from lorakit.tasks.task import TaskData

logger = logging.getLogger(__name__)

HINT = "put back what it was trained on, or train a new run on what is there now"


def remember(data: TaskData, backbone: Backbone, seen: Digests | None = None) -> Provenance:
    """What a run on these rows and this backbone is made of; seen: digests of texts that its weights saw before it."""
    return provenance_of(data, weight_digests(backbone.folder), seen)


def check_same_data(run: Run, data: TaskData, splits: Iterable[str]) -> None:
    """DataError where the labels, or the rows of ``splits``, are not the run's any more.

    Of a run of an older version, which does not tell its rows, only the labels are compared.
    """
    labels, since = run.task().labels, f"the run {run.path} was trained"
    if data.task.labels != labels:
        source = source_of(data, "train")
        what = f"its labels are {', '.join(data.task.labels)} now, and the run's {', '.join(labels)}"
        raise changed(since, what, "the data" if source is None else source.name, "task.train")
    provenance = read_provenance(run.path)
    if provenance is None:
        return
    for split in splits:
        before, now = provenance.told["splits"].get(split), describe(data, split)
        if before is None:
            raise changed(since, f"the run has no rows of {split}", now.get("file", data.origin), "task.name")
        if before["digest"] != now["digest"]:
            key = f"task.{split}" if split in data.sources else "task.train"
            raise changed(since, difference(split, before, now), now.get("file", data.origin), key)


def changed(since: str, what: str, file: str, key: str) -> DataError:
    """The message about a file that is another one."""
    return DataError(f"{file} has changed since {since}: {what}", key=key, hint=HINT)


def difference(split: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How a split's rows differ from what they were."""
    if before["rows"] != now["rows"]:
        return f"{split} has {now['rows']:,} rows now, and had {before['rows']:,}"
    if before.get("classes") != now.get("classes"):
        return f"{split} has as many rows of other labels: {counted(now)} now, and {counted(before)} then"
    return f"{split} has as many rows, and other texts or labels in them, or another order"


def counted(split: Mapping[str, Any]) -> str:
    """``12 neg, 24 pos``."""
    return ", ".join(f"{count:,} {label}" for label, count in (split.get("classes") or {}).items())


def check_same_base(run: Run, backbone: Backbone) -> None:
    """RunError where the base model's weight files are not those that the run was trained on."""
    provenance = read_provenance(run.path)
    if provenance is None or not provenance.told["base"]:
        return
    before, now = provenance.told["base"], weight_digests(backbone.folder)
    if before == now:
        return
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    raise RunError(
        f"the run {run.path} was trained on other weights: {', '.join(names)} in {backbone.folder} has another content now",
        key="model.name",
        hint="put back the model it was trained on, or train a new run on this one",
    )


def run_of(path: Path) -> Run | None:
    """The run that ``path`` is, or is an adapter of; None where it is neither."""
    return next((Run(place) for place in (path, path.parent) if (place / "recipe.yaml").is_file()), None)


def seen_by(*paths: Path) -> Digests | None:
    """Digests of the texts that the weights in ``paths`` were trained on; None where nothing tells."""
    runs = [run for run in map(run_of, paths) if run is not None]
    found = [each.trained for run in runs if (each := read_provenance(run.path)) is not None]
    return reduce(np.union1d, found) if found else None


def tell_seen(run: Run) -> None:
    """Say it loudly where the run's weights had been trained on rows that it holds out, before it began."""
    provenance = read_provenance(run.path)
    if provenance is not None:
        warn_of_seen(provenance, str(run.path))


def seen_before(run: Run) -> int:
    """Held-out texts that the weights the run started from were trained on; 0 where nothing tells."""
    provenance = read_provenance(run.path)
    return 0 if provenance is None else int(provenance.told["seen"])


def warn_of_seen(provenance: Provenance, where: str) -> None:
    """The warning, where there is a reason for it."""
    if seen := provenance.told["seen"]:
        logger.warning(
            "%s: its weights were trained on %s of the %s texts that are held out: scores on them are better than they should be",
            where,
            f"{seen:,}",
            f"{len(provenance.held_out):,}",
        )


def combined(members: Sequence[Run]) -> Provenance | None:
    """What a combination of runs is made of: the first one's rows, and the texts that any of them was trained on.

    None where the first one is of an older version.
    """
    first, *others = [read_provenance(run.path) for run in members]
    if first is None:
        return None
    trained = reduce(np.union1d, (other.trained for other in others if other is not None), first.trained)
    seen = int(leaked(first.held_out, first.own, trained).sum())
    return replace(first, trained=trained, told={**first.told, "seen": seen})
