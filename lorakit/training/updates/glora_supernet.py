"""GLoRA's supernet: every layer trains another of its configurations at each step (Chavan et al. 2023, section 2).

Before each optimiser step every layer draws, on its own and uniformly, one of its 432 configurations (16 where it has no bias): what
that one does not use gets no gradient in this step. After the step every layer is the configuration that the recipe says.
Differs from the authors' code in: one draw an optimiser step, not one a forward pass, so that accumulated batches and all processes train
the same network; and an evaluation scores the recipe's configuration, where theirs goes on drawing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.glora import GLoRA, choices_on
from lorakit.errors import RecipeError
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, updates


class GLoRASupernet(Update):
    """Draws a configuration for every layer before each step."""

    name: ClassVar = "glora_supernet"
    summary: ClassVar = "every layer trains a random configuration of GLoRA at each step"
    source: ClassVar = "Chavan et al. 2023, section 2"

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """Raises RecipeError where no layer has several configurations."""
        supernets(adapted)
        return []

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.layers = supernets(context.adapted)

    def before_forward(self, state: TrainState) -> None:
        """One configuration a layer, for all batches of the step."""
        for layer in self.layers:
            layer.configure({letter: self.pick(choices) for letter, choices in choices_on(layer.site).items()})

    def pick(self, choices: tuple[str, ...]) -> str:
        """One of ``choices``, all alike."""
        return choices[int(torch.randint(len(choices), (), generator=self.context.generator))]

    def after_step(self, state: TrainState) -> None:
        """Whatever looks at the model between two steps sees the recipe's configuration."""
        for layer in self.layers:
            layer.configure()


def supernets(adapted: AdaptedModel) -> list[GLoRA]:
    """The layers that have several configurations. Raises RecipeError where there are none."""
    deltas = [adapter.delta for adapter in adapted.adapters.values()]
    found = [delta for delta in deltas if isinstance(delta, GLoRA) and delta.is_supernet]
    if not found:
        raise RecipeError(
            "'glora_supernet' has no configurations to draw from",
            key="adapter.updates",
            hint="adapter.method=glora adapter.options={mode: supernet}",
        )
    return found


updates.register(GLoRASupernet)
