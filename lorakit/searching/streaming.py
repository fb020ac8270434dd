"""Scores from ordinary training steps: the gradients of sites that are on, and of those that are off without being in the function.

    on        dL/dA, dL/dB as the optimiser will see them, before clipping
    off       dA = s (g B)^T x,  dB = s g^T (A x)   from the layer's input x and output gradient g, as if s B A x were added: the
              site's path is computed on x beside the frozen layer, and receives the sum's gradient (``adapters.ghost``)

Only the last ``search.batches`` steps before a tick are looked at, and only then do sites that are off cost anything. Nothing of a
step is kept but the sums, a number for each adapter parameter. What differs from passes of its own (`separate`): sites that are off
are scored as they are, outside the function, not as if all were on; dropout is that of training; and each batch sees the weights of
its own step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.searching.scoring import Gradients


class Streaming:
    """Sums of gradients over the ``window`` steps before each of ``ticks``."""

    def __init__(self, adapted: AdaptedModel, ticks: Sequence[int], window: int):
        self.adapted = adapted
        self.steps = self.window_steps(ticks, window)
        self.sums: dict[str, torch.Tensor] = {}

    @staticmethod
    def window_steps(ticks: Sequence[int], window: int) -> set[int]:
        """The steps that are looked at: the last ``window`` before each tick."""
        return {step for tick in ticks for step in range(max(tick - window, 0), tick)}

    def before_forward(self, step: int) -> None:
        """Watch the sites that are off, where this step is looked at."""
        if step in self.steps:
            self.adapted.watch(True)

    def after_backward(self, step: int) -> None:
        """Add the step's gradients to the sums, and forget those of sites that are off: they do not train."""
        if step not in self.steps:
            return
        for tensor in self.adapted.trained():
            if tensor.site is not None and tensor.parameter.grad is not None:
                held = self.sums.setdefault(tensor.name, torch.zeros_like(tensor.parameter))
                held += tensor.parameter.grad.nan_to_num(
                    nan=0.0, posinf=0.0, neginf=0.0
                )  # float16 may overflow for a step
        self.adapted.watch(False)

    def take(self) -> Gradients | None:
        """Site -> tensor -> the summed gradient, zeros where none came, and begin anew; None where no step was looked at."""
        if not self.sums:
            return None
        table: dict[str, dict[str, torch.Tensor]] = {}
        for site, adapter in self.adapted.adapters.items():
            table[site] = {
                name: self.sums.get(f"{site}.{name}", torch.zeros_like(parameter))
                for name, parameter, _ in adapter.trained_tensors()
            }
        self.sums = {}
        return table

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return pack_all(self.sums)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        device = next(self.adapted.model.parameters()).device
        self.sums = unpack_all(state, device)
