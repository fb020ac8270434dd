"""A saved head and a model's own: which of its outputs are which of ours, by their labels' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import OURS
from lorakit.artifacts.records import read_task, reading, words
from lorakit.backbone.head import output_names
from lorakit.backbone.trained_head import Outputs
from lorakit.tasks.label_order import order_by_name, told


@dataclass(frozen=True)
class SavedHead:
    """What of a saved head a model can take over.

    order: for each of the model's outputs the saved one, empty where they are in the same order; outputs: the parameters with a row an
    output, where they have to be put in order or left out; left: those that are not taken over; note: why, or what is put in order.
    """

    order: tuple[int, ...] = ()
    outputs: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    note: str = ""


def match_head(adapted: AdaptedModel, saved: tuple[str, ...] | None) -> SavedHead:
    """How a head for the labels ``saved`` (none for a number, None where nothing tells them) fits the model's."""
    own = Outputs.of(adapted.backbone.model.config).names
    order = None if saved is None else order_by_name(saved, own)
    if order == [*range(len(own))]:
        return SavedHead()
    outputs = output_names(adapted.backbone.model, adapted.new_parts)
    if order is None or not outputs:
        why = (
            "nothing says what its outputs are for"
            if saved is None
            else f"it is for {told(saved)}, this one for {told(own)}"
        )
        return SavedHead(left=frozenset(outputs or adapted.new_parts), note=why)
    return SavedHead(tuple(order), frozenset(outputs), note=f"its outputs are put into the order {told(own)}")


def saved_labels(place: Path, record: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The labels of the adapter in the folder ``place``, whose lorakit.json is ``record``; of an older one its run's.

    None where neither tells them. RunError where they are no names.
    """
    if "labels" in record:
        with reading(place / OURS, "the description of an adapter"):
            return words(record["labels"], "labels")
    run = place.parent
    return read_task(run / "task.json").labels if (run / "recipe.yaml").is_file() else None
