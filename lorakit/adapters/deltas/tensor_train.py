"""LoRA's two factors, each kept as a train of small cores (LoRETTA-rep: Yang et al. 2024).

dW = B A        A: rank x in, B: out x rank, each the product of its cores t x n x t' (``lorakit.adapters.ops.tensor_train``);
                sum t n t' parameters, t = tensor_rank between two cores and 1 at the ends

The first core of B, that of out's first digit, starts at zero, so that dW = 0; the others are normal, as in LoRETTA's code.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.ops.tensor_train import MOST_CORES, draw, named_shapes, product, train_of, with_its_train
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.backbone.site import Site

TENSOR_RANK = Option(5, "what two neighbouring cores have in common (t)", low=1)


class TensorTrain(Factored):
    """dW = B A with A and B products of cores A0, A1, ... and B0, B1, ..., the digits of rows before those of columns."""

    name = "tensor_train"
    roles: ClassVar = {f"{matrix}{k}": matrix for matrix in ("A", "B") for k in range(MOST_CORES)}
    starts: ClassVar = {**dict.fromkeys(roles, with_its_train), "B0": 0.0}
    options: ClassVar = {"tensor_rank": TENSOR_RANK}

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """The cores of A (rank x in) and of B (out x rank)."""
        t = cls.settings_of(options)["tensor_rank"]
        return named_shapes({"A": (rank, site.in_features), "B": (site.out_features, rank)}, t)

    def put_at_start(self, generator: torch.Generator) -> None:
        """Draw both trains for a deviation of 1 / sqrt(rows + columns), then zero the first core of B."""
        draw(train_of(self, "A"), (self.rank + self.site.in_features) ** -0.5, generator)
        draw(train_of(self, "B"), (self.site.out_features + self.rank) ** -0.5, generator)
        super().put_at_start(generator)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out x rank) and A (rank x in): multiplying the cores out costs far less than taking every token through them."""
        return product(train_of(self, "B"), self.site.out_features), product(train_of(self, "A"), self.rank)


deltas.register(TensorTrain)
