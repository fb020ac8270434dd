"""An update that starts away from zero, with its start subtracted: dW - dW0.

PiSSA, OLoRA, CorDA and the like give the adapter a part of W and leave the rest to the base, W = (W - s B0 A0) + s B0 A0. The same
function is W + s (B A - B0 A0): the base stays the pretrained one, so an adapter can be switched off, merged, or
exported as a plain LoRA of twice the rank, [B, -B0] [A; A0], and a fresh model is the pretrained one bit for bit.
Dropout drops inputs of the difference, never a part of W.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import Delta
from lorakit.adapters.rank_units import axes_of
from lorakit.backbone.site import Site

Tensor = torch.Tensor


class Anchored(nn.Module):
    """Behaves as the delta it is made from, less that delta's start. The start's tensors are saved, and never train."""

    additive = True
    plain_product = False
    stacks = False
    replaces_parameters = False
    unmergeable = ""
    peft_names: Mapping[str, str] = {}

    def __init__(self, live: Delta):
        super().__init__()
        self.live = live
        """The delta that trains."""
        self.start = copy.deepcopy(live)
        """As it was at first."""
        self.rank_axes = {**live.rank_axes, **{f"{START}.{name}": axis for name, axis in live.rank_axes.items()}}
        self.roles = {**live.roles, **{f"{START}.{name}": START for name in live.roles}}

    @property
    def site(self) -> Site:
        """The adapted place."""
        return self.live.site

    @property
    def shared(self) -> None:
        """Nothing is shared: a delta with shared tensors takes no factors."""
        return None

    # -- rank units, see ``rank_units`` -------------------------------------------------------------------------------

    @property
    def cut_to(self) -> int | None:
        """How many rank units are in the function; None: all."""
        return self.live.cut_to

    @cut_to.setter
    def cut_to(self, count: int | None) -> None:
        self.live.cut_to = self.start.cut_to = count

    def closers(self) -> tuple[str, ...]:
        """The live delta's: there, a unit that is as at the start is out of the function."""
        return self.live.closers()

    @torch.no_grad()
    def close(self, units: Tensor) -> None:
        """Put the rank units where ``units`` (rank,) is true back to the start, which is subtracted."""
        for name in self.live.rank_axes:
            tensor, start = self.live.get_parameter(name), self.start.get_parameter(name)
            for axis in axes_of(self.live, name):
                where = units.nonzero().flatten().to(tensor.device)
                tensor.index_copy_(axis, where, start.index_select(axis, where))

    # -- the function -------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """``scale (dW - dW0) x``."""
        return self.live(x, scale) - self.start(x, scale)

    def added(self, base: Tensor, x: Tensor, scale: float) -> Tensor:
        """``base + scale (dW - dW0) x``."""
        return base + self(x, scale)

    def dense(self) -> Tensor:
        """dW - dW0 (out x in)."""
        return self.live.dense() - self.start.dense()

    def by_groups(self, group: int) -> Tensor | None:
        """None: a delta that takes factors is not the same for several inputs."""
        return self.live.by_groups(group)

    def effective_weight(self, weight: Tensor, scale: float) -> Tensor:
        """W + scale (dW - dW0)."""
        return weight + scale * self.dense().to(weight.dtype)

    def effective_bias(self, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor | None:
        """b, as it is."""
        return bias

    def row_norms_squared(self, weight: Tensor, base_squared: Tensor, scale: float) -> Tensor:
        """Squared row norms of W' (out,)."""
        return self.effective_weight(weight, scale).square().sum(dim=1)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """[B, -B0] and [A; A0]: a plain LoRA for the untouched base."""
        live, start = self.live.factors(), self.start.factors()
        if live is None or start is None:
            return None
        return torch.cat([live[0], -start[0]], dim=1), torch.cat([live[1], start[1]], dim=0)

    # -- its tensors --------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role): the live tensors under their own names, then the start's."""
        yield from self.live.tensors()
        for name, parameter, _ in self.start.tensors():
            yield f"{START}.{name}", parameter, START

    def is_zero(self) -> bool:
        """Whether nothing has moved."""
        return all(torch.equal(t, s) for t, s in zip(self.live.parameters(), self.start.parameters(), strict=True))

    def without_gradient(self) -> set[str]:
        """No tensor's gradient is zero: the factors are not."""
        return set()
