"""Tensors that several sites have in common: VeRA's two random matrices, VB-LoRA's bank of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from lorakit.adapters.declaration import Declaration, Shape
from lorakit.adapters.starts import put_at_start


class Shared(nn.Module):
    """What one group of sites shares. It belongs to the model, not to any of the sites."""

    def __init__(self, shapes: Mapping[str, Shape], delta: type[Declaration]):
        super().__init__()
        self.of = delta
        """The delta whose sites they are."""
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor."""
        for name, parameter in self.named_parameters():
            yield name, parameter, self.of.shared_roles[name]

    def init_tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """Those that the recipe's init fills."""
        return (entry for entry in self.tensors() if entry[0] not in self.of.starts)

    def put_at_start(self, generator: torch.Generator) -> None:
        """Put every tensor that has a start of its own there."""
        put_at_start(self.tensors(), self.of.starts, generator)
