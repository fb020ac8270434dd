"""LoRA's product with a gate for each rank that starts open (SoRA: Ding et al. 2023, arXiv 2311.11696, section 3).

dW = B diag(g) A        A: rank x in, g: rank, B: out x rank,  rank (in + out) + rank parameters

The product of ``diagonal`` from another start: B is zero, so that dW = 0, and g ~ N(0, 1). A unit is closed by its gate alone.
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.diagonal import Diagonal
from lorakit.adapters.starts import standard_normal


class Gated(Diagonal):
    """dW = B diag(g) A with A (rank x in), g (rank) and B (out x rank), B zero at start."""

    name = "gated"
    starts: ClassVar = {"B": 0.0, "g": standard_normal}
    closed_by: ClassVar = ("g",)  # the gate, though it is B that starts at zero


deltas.register(Gated)
