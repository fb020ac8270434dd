"""How far a run's layers have moved on real rows: linear CKA of their outputs with the adapters off and on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.switching import DROPPED
from lorakit.recipe.schema import Recipe
from lorakit.reporting.analysis.measures import linear_cka
from lorakit.reporting.analysis.records import LayerDrift
from lorakit.tasks.batching import Encoded
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.restore import RestoredRun

Tensor = torch.Tensor
FEWEST = 3  # two points but for a scale are any other two


class OtherTokens(Exception):
    """A layer's output is not of the rows' own tokens."""


@torch.no_grad()
def drift_of(restored: RestoredRun, rows: Encoded) -> list[LayerDrift] | str:
    """CKA of each layer, a text being what its tokens' outputs are on the average; in words, why there is none.

    The adapters are off once and then as they were trained; the head is no part of it.
    """
    if len(rows) < FEWEST:
        return f"of fewer than {FEWEST} rows CKA is 1, whatever they are"
    try:
        after = layer_means(restored, rows)
        with without_adapters(restored.adapted):
            before = layer_means(restored, rows)
    except OtherTokens as error:
        return str(error)
    finally:
        restored.adapted.model.cpu()
    return [
        LayerDrift(number, *linear_cka(old, new)) for number, (old, new) in enumerate(zip(before, after, strict=True))
    ]


@contextmanager
def without_adapters(adapted: AdaptedModel) -> Iterator[None]:
    """The model as it was pretrained, but for its head."""
    states = adapted.states()
    adapted.restore(dict.fromkeys(states, DROPPED))
    try:
        yield
    finally:
        adapted.restore(states)


def in_full_precision(recipe: Recipe) -> Recipe:
    """The recipe in float32: autocast's rounding would look like something learnt."""
    return replace(recipe, training=replace(recipe.training, precision="fp32"))


def layer_means(restored: RestoredRun, rows: Encoded) -> list[Tensor]:
    """Of each layer the mean of its outputs over a text's tokens (texts, width); a window of a long text is a text."""
    adapted, recipe = restored.adapted, in_full_precision(restored.parts.recipe)
    objective = put_on_device(adapted.model, recipe, regression=restored.parts.task.regression)
    layers = [layer for _, layer in adapted.backbone.anatomy.layers]
    found: list[list[Tensor]] = [[] for _ in layers]
    with watching(layers) as seen:
        for batch in (rows.collate(chosen) for chosen in rows.batches(recipe.evaluation.batch_size)):
            objective.logits(adapted.model, batch)
            for number, place in enumerate(found):
                place.append(mean_over_tokens(seen.pop(number, None), batch))
    return [torch.cat(parts) for parts in found]


@contextmanager
def watching(layers: list[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Number of a layer -> what it gave last, while it runs. OtherTokens where it runs more than once a pass."""
    seen: dict[int, Tensor] = {}

    def keep(number: int, output: Any) -> None:
        if number in seen:
            what = "the texts of a row are read apart, layers repeat, or a first pass weighs experts"
            raise OtherTokens(f"a layer runs several times a pass: {what}")
        seen[number] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            handle = layer.register_forward_hook(lambda _, __, output, number=number: keep(number, output))
            stack.callback(handle.remove)
        yield seen


def mean_over_tokens(output: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
    """(texts, width) of a layer's output (texts, length, width), padding left out. OtherTokens for another shape."""
    mask = batch["attention_mask"]
    if output is None or output.shape[:2] != mask.shape:
        raise OtherTokens("what its layers give is not of the texts' own tokens alone, as with virtual tokens")
    weights = mask.to(output.device, torch.float64)[:, :, None]
    return ((output.double() * weights).sum(dim=1) / weights.sum(dim=1)).cpu()
