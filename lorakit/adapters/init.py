"""What an initialisation is given, and what it must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from lorakit.adapters.delta import Delta


@dataclass(frozen=True)
class InitContext:
    """What an initialisation may use.

    weight: the site's frozen W (out x in), None on a shortcut; scale: the s of W + s dW; generator: the site's own stream.
    """

    weight: torch.Tensor | None
    scale: float
    generator: torch.Generator


class Initialise(Protocol):
    """Fills the delta's tensors in place, by role. Afterwards W' must equal W, unless the file's header says otherwise."""

    def __call__(self, delta: Delta, context: InitContext) -> None:
        """Fill ``delta``."""
