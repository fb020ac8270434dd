"""A tiny adapted model with training rows, and ways to score it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from support.adapters.cases import adapt
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.budget import resolve_budget
from lorakit.adapters.counting import costs
from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.backbone.load import Backbone
from lorakit.recipe.schema import AdapterSection, SearchSection, TrainingSection
from lorakit.searching.allocator import Allocator, SearchContext, allocators
from lorakit.searching.scoring import Batch, Probe, proxies, without_trace
from lorakit.tasks.batching import Encoded
from lorakit.training.loader import TrainLoader
from lorakit.training.optim import moments_of

BATCH = 8
SECTION = AdapterSection(rank=3, alpha=5.0, shortcut_rank=2, shortcut_alpha=3.0)


def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(logits(model, batch), batch["labels"])


@dataclass
class Scene:
    """adapted: on a backbone of its own; pretrained: the same one, never adapted, to be read only; encoded: its training rows."""

    pretrained: nn.Module
    adapted: AdaptedModel
    encoded: Encoded
    section: AdapterSection

    @property
    def loader(self) -> TrainLoader:
        return TrainLoader(self.encoded, TrainingSection(batch_size=BATCH), seed=0)

    def batches(self, number: int = 3) -> list[dict[str, torch.Tensor]]:
        return self.loader.first(number, torch.Generator())  # type: ignore[return-value]

    def probe(self, batches: list[Any] | None = None, **search: Any) -> Probe:
        rows = self.batches() if batches is None else batches
        return Probe(self.adapted, rows, loss, logits, False, SearchSection(**search))

    def scores(self, proxy: str, probe: Probe | None = None, **search: Any) -> dict[str, float]:
        """By the registered proxy, every site on, without dropout."""
        with without_trace(self.adapted, train_mode=False, seed=0):
            return proxies.get(proxy).score(probe or self.probe(**search))

    def allocator(
        self, seed: int = 0, *, total_steps: int = 1, ticks: Sequence[int] = (0,), optimizer: Any = None, **search: Any
    ) -> Any:
        """An allocator (HeteroLoRA by default) on this scene, drawing from the loader as the workflow does."""
        section = SearchSection(**{"method": "heterolora", "batches": 2, **search})
        sites, linear, shortcut = self.adapted.sites, resolve(self.section), shortcut_spec(self.section)
        kind: type[Allocator] = allocators.get(section.method)
        context = SearchContext(
            adapted=self.adapted,
            search=section,
            budget=resolve_budget(section, sites, linear, shortcut, default_share=kind.default_share, by=kind.by),
            costs=costs(sites, linear, shortcut),
            draw=self.loader.first if section.data == "first" else self.loader.sample,
            loss=loss,
            logits=logits,
            regression=False,
            generator=torch.Generator().manual_seed(seed),
            total_steps=total_steps,
            ticks=list(ticks),
            moments=partial(moments_of, optimizer) if optimizer else lambda parameter: (),
        )
        return kind(context)


def make_scene(
    backbone: Backbone,
    pretrained: nn.Module,
    encoded: Encoded,
    targets: Collection[str] = ("all",),
    shortcuts: Collection[str] = (),
    **section: Any,
) -> Scene:
    axes = replace(SECTION, **section)
    return Scene(pretrained, adapt(backbone, axes, targets=targets, shortcuts=shortcuts), encoded, axes)


def train(scene: Scene, steps: int, optimizer: torch.optim.Optimizer | None = None) -> None:
    """A few AdamW steps on the first batches, with whatever is on."""
    optimizer = optimizer or torch.optim.AdamW([tensor.parameter for tensor in scene.adapted.trained()], lr=1e-2)
    for _ in range(steps):
        for batch in scene.batches(2):
            loss(scene.adapted.model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
