"""LoRAs side by side in one product, of which one trains at a time and the others stay to the bit.

B A = B_1 A_1 + ... + B_n A_n        A_i: rank x in, B_i: out x rank, each the next rank units of A and B
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.delta import Delta
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update

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


class KeepsFirst(Update):
    """An update under which the first rank units of every site stay, those of earlier tasks."""

    def keep_first(self, factors: Sequence[Factors], number: int) -> None:
        """Of ``factors`` so many rank units, from the first step on."""
        self.units, self.earlier = HeldUnits(factors), number

    def on_train_begin(self, state: TrainState) -> None:
        """Remember what stays."""
        self.units.hold(slice(self.earlier, None))

    def after_backward(self, state: TrainState) -> None:
        """What stays takes no part in the gradient's norm."""
        self.units.drop_gradients()

    def after_step(self, state: TrainState) -> None:
        """Nor does weight decay move it."""
        self.units.put_back()

    def after_trial_step(self) -> None:
        """The same."""
        self.units.put_back()


def held_parameters(factors: Sequence[Factors], units: int) -> int:
    """How many parameters ``units`` rank units of every site are."""
    return sum(units * (a.shape[1] + b.shape[0]) for a, b in factors)
