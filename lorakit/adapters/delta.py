"""A delta: a parametrisation of a site's update dW. What the files in ``deltas/`` must offer.

    W' = W + s dW        W: out x in, frozen; dW: out x in, made of the delta's tensors; s: the adapter's scale

LoRA's has two tensors, dW = B A. Most deltas are such sums and compute ``s dW x`` without ever building dW; the others
rewrite the layer (``additive`` is false) or stand in for the module's own parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from lorakit.adapters.declaration import Declaration
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.adapters.rank_units import axes_of, closers, first_units
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import put_at_start
from lorakit.backbone.site import Site
from lorakit.registry import Registry

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter
    from lorakit.adapters.block import Wiring

Tensor = torch.Tensor


class Layer(Protocol):
    """The adapted module, as a delta that is more than a sum sees it."""

    def frozen_forward(self, x: Tensor) -> Tensor:
        """``W x + b``."""

    def base_weight(self) -> Tensor:
        """W (out x in)."""

    def base_bias(self) -> Tensor | None:
        """b (out,)."""

    def dropout(self, x: Tensor) -> Tensor:
        """The adapter's dropout."""


class Delta(Declaration, nn.Module):
    """The update of one site. A subclass declares its tensors (``Declaration``) and computes with them.

    Args:
        site: where it sits.
        rank: how many rank units it has.
        options: those of its own ``options`` that are given.
        shared: the tensors it has in common with other sites, where there are such.
    """

    site: Site
    rank: int
    shared: Shared | None

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__()
        self.site = site
        self.rank = rank
        self.cut_to: int | None = None
        """Only the first so many rank units are in the function; None: all (``rank_units``)."""
        self.settings = self.settings_of(options)
        """Option -> value."""
        self.__dict__["shared"] = shared  # not a child: it belongs to the model
        for name, shape in self.shapes(site, rank, self.settings).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    # -- its tensors --------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor of its own, whole."""
        for name, parameter in self.named_parameters():
            yield name, parameter, self.role_of(name)

    def tensor(self, name: str) -> Tensor:
        """The tensor ``name`` as the function sees it: without the rank units that are cut off. The whole one is an attribute."""
        whole: Tensor = getattr(self, name)
        return whole if self.cut_to is None else first_units(self, name, whole, self.cut_to)

    def closers(self) -> tuple[str, ...]:
        """The tensors in which zeros in a rank unit's place take it out of the function; none where units cannot be taken out."""
        return closers(self)

    @torch.no_grad()
    def close(self, units: Tensor) -> None:
        """Take the rank units where ``units`` (rank,) is true out of the function: zeros in their place in the ``closers``."""
        for name in self.closers():
            tensor: Tensor = getattr(self, name)
            for axis in axes_of(self, name):
                tensor.index_fill_(axis, units.nonzero().flatten().to(tensor.device), 0.0)

    @classmethod
    def wiring(cls, model: nn.Module, adapters: Sequence[Adapter]) -> Wiring | None:
        """What has to be installed in the transformers model for ``adapters`` of this delta that look at more than their inputs."""
        return None

    # -- its start ----------------------------------------------------------------------------------------------------

    def put_at_start(self, generator: torch.Generator) -> None:
        """Put every tensor that has a start of its own there."""
        put_at_start(self.tensors(), self.starts, generator)

    def prepare(self, weight: Tensor | None) -> None:
        """Derive from the frozen W (out x in; None on a shortcut) what is kept beside the tensors: called once, before the init."""

    def init_tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """The tensors that the recipe's init fills."""
        return (entry for entry in self.tensors() if entry[0] not in self.starts)

    def set_factors(self, b: Tensor, a: Tensor) -> None:
        """Make dW = b a, for b (out x rank) and a (rank x in); only where ``takes_factors``."""
        raise TypeError(f"{type(self).__name__} takes no factors")

    def set_stack(self, b: Tensor, a: Tensor) -> None:
        """Make dW = b a, for as many rank units as ``factors`` gives; only where it ``stacks``."""
        raise TypeError(f"{type(self).__name__} is no stack of products")

    def is_zero(self) -> bool:
        """Whether the update is zero: in a product, because some tensor is still at its zero start."""
        shared = self.shared.tensors() if self.shared is not None else ()
        return any(self.starts.get(name) == 0.0 and not t.any() for name, t, _ in [*self.tensors(), *shared])

    def without_gradient(self) -> set[str]:
        """The tensors whose gradient is zero because the update is: whatever they are multiplied by starts at zero, and is zero."""
        zero = {name for name, tensor, _ in self.tensors() if self.starts.get(name) == 0.0 and not tensor.any()}
        return {name for name, _, _ in self.tensors()} - zero if zero and self.is_zero() else set()

    # -- the function -------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """``scale * dW x`` for x (..., in) -> (..., out), in factored form."""
        raise TypeError(f"{type(self).__name__} is no sum: its layer is computed by `layer_forward`")

    def added(self, base: Tensor, x: Tensor, scale: float) -> Tensor:
        """``base + scale * dW x`` for what the frozen layer gave (..., out), which may be overwritten."""
        return base + self(x, scale)

    def layer_forward(self, layer: Layer, x: Tensor, scale: float) -> Tensor:
        """The whole adapted layer's output, for a delta that is not ``additive``."""
        raise TypeError(f"{type(self).__name__} is a sum: it is computed by `forward`")

    def dense(self) -> Tensor:
        """dW, dense, (out x in): for merging and analysis, never in the hot path."""
        raise TypeError(f"{type(self).__name__} has no dense update")

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(b, a) with dW = b a exactly, as thin as the parametrisation allows; None where dW is not of low rank."""
        return None

    def by_groups(self, group: int) -> Tensor | None:
        """dW (out x in/group), where it is the same for every ``group`` inputs; None where it is not."""
        return None

    def effective_weight(self, weight: Tensor, scale: float) -> Tensor:
        """W' for the given W (out x in). Additive by default; a multiplicative parametrisation overrides it."""
        return weight + scale * self.dense().to(weight.dtype)

    def effective_bias(self, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor | None:
        """b' (out,) for the given W and b, both as they were before any merging."""
        return bias

    def row_norms_squared(self, weight: Tensor, base_squared: Tensor, scale: float) -> Tensor:
        """Squared row norms of W' (out,), given those of W; override where the dense product can be avoided."""
        return self.effective_weight(weight, scale).square().sum(dim=1)


deltas: Registry[type[Delta]] = Registry("delta", "lorakit.adapters.deltas")
