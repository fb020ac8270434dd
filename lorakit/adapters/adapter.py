"""An adapter: a delta, its scale, its dropout and maybe a magnitude, on one site.

The module keeps its weight and its place in the model. An adapter that is on stands in for the module's ``forward``; one
that is off is simply not there, so the layer costs what the frozen backbone costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from lorakit import registry
from lorakit.adapters.delta import Delta
from lorakit.adapters.init import InitContext
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.site import Site

DROPPED, FROZEN, ON = "dropped", "frozen", "on"
"""An adapter's states: not in the function; in it without training; in it and trained."""
SMALLEST_NORM = 1e-18
"""Stands in for the norm of a weight row that is zero, so that nothing is divided by zero; its square is a normal float32."""


class Adapter(nn.Module):
    """The adapter of one site. ``base`` is the adapted module (None on a shortcut, whose base is the identity or nothing)."""

    base: nn.Module | None
    base_squared: torch.Tensor

    def __init__(
        self, site: Site, spec: AdapterSpec, rank: int, base: nn.Module | None, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.site = site
        self.spec = spec
        self.rank = rank
        self.scale = spec.scale_at(rank)
        self.state = DROPPED
        self.__dict__["base"] = base  # not a child: the adapter lives inside its base
        self.delta: Delta = registry.deltas.get(spec.delta)(site, rank)
        weight = self.base_weight() if base is not None else None
        generator = generator or torch.Generator().manual_seed(0)
        registry.inits.get(spec.init)(self.delta, InitContext(weight, self.scale, generator))
        self.dropout = nn.Dropout(spec.dropout) if spec.dropout > 0 else nn.Identity()
        if spec.decomposition == "magnitude":
            assert weight is not None  # shortcuts never decompose: see shortcut_spec
            squared = weight.to(self.delta_dtype()).square().sum(dim=1)
            self.register_buffer("base_squared", squared, persistent=False)
            self.magnitude = nn.Parameter(squared.sqrt())
        if base is not None:
            self.to(next(base.parameters()).device)
        self.freeze()

    # -- the hot path: chosen once, when the adapter is switched on ---------------------------------------------------

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A shortcut's path: ``s dW x`` for x (..., in), in the adapter's dtype."""
        return self.delta(self.dropout(x.to(self.delta_dtype())), self.scale)

    def added(self, x: torch.Tensor) -> torch.Tensor:
        """``W x + b + s dW x``."""
        return self.frozen_forward(x) + self.delta(self.dropout(x), self.scale)

    def added_in_float32(self, x: torch.Tensor) -> torch.Tensor:
        """The same where the frozen weights are kept in half precision: the adapter computes in its own dtype."""
        base = self.frozen_forward(x)
        return base + self.delta(self.dropout(x.float()), self.scale).to(base.dtype)

    def decomposed(self, x: torch.Tensor) -> torch.Tensor:
        """``f (W x + b + s dW x) + (1 - f) b`` with f = m / |W + s dW|: equals f (W + s dW) x + b, and W x + b at start."""
        base = self.frozen_forward(x)
        factor = self.magnitude / self.row_norms()
        update = self.delta(self.dropout(x.to(self.magnitude.dtype)), self.scale)
        out = factor * (base + update)
        bias = getattr(self.base, "bias", None)
        if bias is not None:
            out = out + (1 - factor) * bias
        return out.to(base.dtype)

    def frozen_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The adapted module's own forward."""
        return type(self.base).forward(self.base, x)  # type: ignore[union-attr]

    # -- the weight, from which merging, saving and analysis are written once -----------------------------------------

    def base_weight(self) -> torch.Tensor:
        """The frozen W as (out x in), whatever way round the module keeps it."""
        weight: torch.Tensor = self.base.weight  # type: ignore[union-attr, assignment]
        return weight.T if self.site.kind == "conv1d" else weight

    def effective_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """W' (out x in) for W (out x in), in W's dtype, computed in the wider one of W's and the adapter's."""
        wide = weight.to(torch.promote_types(weight.dtype, self.delta_dtype()))
        adapted = self.delta.effective_weight(wide, self.scale)
        if self.spec.decomposition == "magnitude":
            norms = adapted.norm(dim=1).clamp_min(SMALLEST_NORM)
            adapted = (self.magnitude / norms)[:, None] * adapted
        return adapted.to(weight.dtype)

    @torch.no_grad()
    def row_norms(self) -> torch.Tensor:
        """|W + s dW| by rows (out,), outside the graph as DoRA's section 4.3 has it, and never in autocast's half precision."""
        weight = self.base_weight().to(self.base_squared.dtype)
        with torch.autocast(weight.device.type, enabled=False):
            squared = self.delta.row_norms_squared(weight, self.base_squared, self.scale)
        return squared.clamp_min(SMALLEST_NORM**2).sqrt()

    # -- tensors ------------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor, trained or not."""
        yield from self.delta.tensors()
        if self.spec.decomposition == "magnitude":
            yield "magnitude", self.magnitude, "magnitude"

    def trained_tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """Those that train while the adapter is on."""
        return (entry for entry in self.tensors() if self.spec.trains(entry[2]))

    def untrained(self) -> bool:
        """Whether W' is still exactly W because role B is zero, and the magnitude is |W| (true for a fresh adapter)."""
        if self.spec.decomposition == "magnitude" and not torch.equal(self.magnitude, self.base_squared.sqrt()):
            return False
        return [bool(tensor.any()) for _, tensor, role in self.tensors() if role == "B"] == [False]

    def freeze(self) -> None:
        """No tensor receives gradients."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def thaw(self) -> None:
        """The trained tensors receive gradients."""
        for _, parameter, _ in self.trained_tensors():
            parameter.requires_grad_(True)

    # -- switching ----------------------------------------------------------------------------------------------------

    def switch(self, state: str) -> None:
        """Put the adapter into ``state``: DROPPED, FROZEN or ON."""
        self.state = state
        self.freeze()
        if state == ON:
            self.thaw()
        if self.base is None:
            return
        if state == DROPPED:
            self.base.__dict__.pop("forward", None)
        elif self.spec.decomposition == "magnitude":
            self.base.forward = self.decomposed
        elif self.base_weight().dtype == self.delta_dtype():
            self.base.forward = self.added
        else:
            self.base.forward = self.added_in_float32

    def delta_dtype(self) -> torch.dtype:
        """The dtype the adapter's tensors are kept in."""
        return next(self.delta.parameters()).dtype


def count(spec: AdapterSpec, site: Site, rank: int) -> int:
    """Trained parameters of ``site`` at ``rank``, before anything is built: the currency of every budget."""
    delta: type[Delta] = registry.deltas.get(spec.delta)
    sizes = [
        torch.Size(shape).numel() for name, shape in delta.shapes(site, rank).items() if spec.trains(delta.roles[name])
    ]
    magnitude = site.out_features if spec.decomposition == "magnitude" and spec.trains("magnitude") else 0
    return sum(sizes) + magnitude if rank > 0 else 0
