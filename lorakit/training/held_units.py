"""LoRAs side by side in one product, of which one trains at a time and the others stay to the bit.

B A = B_1 A_1 + ... + B_n A_n        A_i: rank x in, B_i: out x rank, each the next rank units of A and B
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.delta import Delta

Factors = tuple[torch.nn.Parameter, torch.nn.Parameter]
"""A (rank x in) and B (out x rank) of a site."""


def factors_of(adapted: AdaptedModel, kind: type[Delta]) -> list[Factors]:
    """Those of every site whose delta is of this kind."""
    found = [each.delta for each in adapted.adapters.values() if isinstance(each.delta, kind)]
    return [(delta.get_parameter("A"), delta.get_parameter("B")) for delta in found]


class HeldUnits:
    """The rank units of ``factors`` that are not ``free``: they take no part in a gradient's norm, and no step moves them."""

    def __init__(self, factors: Sequence[Factors]):
        self.factors = factors
        self.free = slice(0, None)
        self.kept: list[list[torch.Tensor]] = []

    def hold(self, free: slice) -> None:
        """Keep all units but those of ``free`` as they are now."""
        self.free = free
        self.kept = [[part.clone() for part in self.held(a.detach(), b.detach())] for a, b in self.factors]

    def held(self, a: torch.Tensor, b: torch.Tensor) -> Iterator[torch.Tensor]:
        """What of tensors shaped as A and B belongs to them."""
        start, stop, _ = self.free.indices(len(a))
        yield from (a[:start], a[stop:], b[:, :start], b[:, stop:])

    @torch.no_grad()
    def drop_gradients(self) -> None:
        """Their gradients are zeros."""
        for a, b in self.factors:
            if a.grad is not None and b.grad is not None:
                for part in self.held(a.grad, b.grad):
                    part.zero_()

    @torch.no_grad()
    def put_back(self) -> None:
        """Their values are those that were kept."""
        for (a, b), kept in zip(self.factors, self.kept, strict=True):
            for part, own in zip(self.held(a, b), kept, strict=True):
                part.copy_(own)


def held_parameters(factors: Sequence[Factors], units: int) -> int:
    """How many parameters ``units`` rank units of every site are."""
    return sum(units * (a.shape[1] + b.shape[0]) for a, b in factors)
