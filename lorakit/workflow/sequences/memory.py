"""Which training rows of earlier tasks are kept for ``continual.method: replay``.

Every row gets a key, uniform on [0, 1), from its task's own stream of the seed. A reservoir keeps those with the smallest keys of all rows
so far, which is what reservoir sampling keeps (Vitter 1985, algorithm R), as if it had seen them one by one; by class it is the same
within each class, of which all get as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.recipe.sequence import BY_CLASS
from lorakit.tasks.batching import column_array
from lorakit.tasks.task import TaskData
from lorakit.training.seeds import generator

Chosen = list[tuple[int, int]]
"""(task, row) of what is kept."""


def memory_rows(names: Sequence[str], data: Sequence[TaskData], size: int, by: str, seed: int) -> list[dict[str, Any]]:
    """What is kept of the tasks whose runs are called ``names``, in the order of tasks and rows."""
    labels = [column_array(each.splits["train"], "label") for each in data]
    keys = [draw_keys(len(own), seed, name) for name, own in zip(names, labels, strict=True)]
    kept = []
    for task, row in choose(keys, labels, size, by):
        split = data[task].splits["train"]
        texts = {name: str(split[row][name]) for name in ("text", "text_pair") if name in split.column_names}
        kept.append({"run": names[task], **texts, "label": int(labels[task][row])})
    return kept


def draw_keys(rows: int, seed: int, name: str) -> NDArray[np.float64]:
    """A key for each row."""
    return torch.rand(rows, dtype=torch.float64, generator=generator(seed, f"memory/{name}")).numpy()


def choose(keys: Sequence[NDArray[np.float64]], labels: Sequence[NDArray[Any]], size: int, by: str) -> Chosen:
    """At most ``size`` rows: of the smallest keys, or of each class ``size`` over the number of classes, rounded down."""
    rows = [(float(key), task, row) for task, own in enumerate(keys) for row, key in enumerate(own)]
    if by != BY_CLASS:
        return sorted((task, row) for _, task, row in sorted(rows)[:size])
    groups: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    for key, task, row in rows:
        groups.setdefault((task, int(labels[task][row])), []).append((key, task, row))
    share = size // len(groups)
    return sorted((task, row) for group in groups.values() for _, task, row in sorted(group)[:share])
