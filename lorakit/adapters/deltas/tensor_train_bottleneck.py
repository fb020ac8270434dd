"""A bottleneck whose two matrices are trains of small cores (LoRETTA-adp: Yang et al. 2024).

y' = y + U g(D y + b_down) + b_up        D: m x out and U: out x m, each the product of its cores t x n x t'
                                         sum t n t' + m + out parameters, t = tensor_rank between two cores and 1 at the ends

The first core of U starts at zero, so that y' = y exactly; the others are normal, as in LoRETTA's code.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.bottleneck import Bottleneck
from lorakit.adapters.deltas.tensor_train import TENSOR_RANK
from lorakit.adapters.ops.tensor_train import MOST_CORES, draw, named_shapes, product, train_of, with_its_train
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class TensorTrainBottleneck(Bottleneck):
    """y + U g(D y + b_down) + b_up with D and U products of cores D0, D1, ... and U0, U1, ..."""

    name = "tensor_train_bottleneck"
    roles: ClassVar = {
        **{f"{matrix}{k}": role for matrix, role in (("D", "A"), ("U", "B")) for k in range(MOST_CORES)},
        "b_down": "bias",
        "b_up": "bias",
    }
    rank_axes: ClassVar = {}
    starts: ClassVar = {**dict.fromkeys(roles, with_its_train), "U0": 0.0, "b_down": 0.0, "b_up": 0.0}
    options: ClassVar = {**Bottleneck.options, "tensor_rank": TENSOR_RANK}
    last: ClassVar = "U0"

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """The cores of D (m x out) and of U (out x m), and the biases."""
        t = cls.settings_of(options)["tensor_rank"]
        cores = named_shapes({"D": (rank, site.out_features), "U": (site.out_features, rank)}, t)
        return cores | cls.biases(site, rank)

    def put_at_start(self, generator: torch.Generator) -> None:
        """Draw both trains for a deviation of 1 / sqrt(m + out), then zero the first core of U and the biases."""
        for matrix in ("D", "U"):
            draw(train_of(self, matrix), (self.rank + self.site.out_features) ** -0.5, generator)
        super().put_at_start(generator)

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """D (m x out) and U (out x m), multiplied out."""
        return product(train_of(self, "D"), self.rank), product(train_of(self, "U"), self.site.out_features)


deltas.register(TensorTrainBottleneck)
