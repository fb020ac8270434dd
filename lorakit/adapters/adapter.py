"""An adapter: a delta, its scale, its dropout and maybe a magnitude, on one site.

The module keeps its weight and its place in the model. An adapter that is on stands in for the module's ``forward``; one
that is off is simply not there, so the layer costs what the frozen backbone costs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import nn

from lorakit.adapters.anchored import Anchored
from lorakit.adapters.delta import Delta, Shared, axes_of
from lorakit.adapters.factored import Factored
from lorakit.adapters.ops.ghost import Ghost
from lorakit.adapters.ops.rescale import rescale
from lorakit.adapters.ops.thin import adapted_linear
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.started import started
from lorakit.backbone.site import Site
from lorakit.errors import RunError

DROPPED, FROZEN, ON, WATCHED = "dropped", "frozen", "on", "watched"
"""An adapter's states: not in the function; in it without training; in it and trained; not in it, but its gradients are taken."""
NO_STATISTICS: Mapping[str, torch.Tensor] = MappingProxyType({})
SMALLEST_NORM = 1e-18
"""Stands in for the norm of a weight row that is zero, so that nothing is divided by zero; its square is a normal float32."""


class Adapter(nn.Module):
    """The adapter of one site. ``base`` is the adapted module (None on a shortcut, whose base is the identity or nothing).

    shared: the tensors its delta has in common with other sites; statistics: what a data-driven init needs, as InitContext's
    fields; None where the tensors are to be loaded anyway, and the init is skipped.
    """

    base: nn.Module | None
    beneath: Callable[[torch.Tensor], torch.Tensor] | None
    originals: dict[str, nn.Parameter]
    base_squared: torch.Tensor

    def __init__(
        self,
        site: Site,
        spec: AdapterSpec,
        rank: int,
        base: nn.Module | None,
        generator: torch.Generator | None = None,
        *,
        shared: Shared | None = None,
        statistics: Mapping[str, torch.Tensor] | None = NO_STATISTICS,
    ):
        super().__init__()
        self.site = site
        self.spec = spec
        self.rank = rank
        self.scale = spec.scale_at(rank)
        self.state = DROPPED
        self.units = torch.ones(rank, dtype=torch.bool)  # which rank units are live
        self.settled: set[str] = set()  # tensors that were frozen for good during training
        self.__dict__["base"] = base  # not a child: the adapter lives inside its base
        self.__dict__["beneath"] = None  # the adapter that this one stands on, where a module has several
        weight = self.base_weight() if self.on_weight else None
        self.delta: Delta | Anchored = started(
            site, spec, rank, weight, generator or torch.Generator().manual_seed(0), shared, statistics
        )
        if self.delta.replaces:
            assert isinstance(base, nn.Module)
            self.__dict__["originals"] = {name: base.get_parameter(name) for name, _ in site.parameters}
            for name, original in self.originals.items():
                self.delta.get_parameter(name).data.copy_(original.data)
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
        """A shortcut's path: ``s dW x`` for x (..., in), in the adapter's dtype; 0 where it is only watched."""
        if self.state == WATCHED:
            watched = self.delta(self.dropout(x.detach().to(self.delta_dtype())), self.scale)
            return Ghost.apply(torch.zeros_like(watched), watched)
        return self.delta(self.dropout(x.to(self.delta_dtype())), self.scale)

    def added(self, x: torch.Tensor) -> torch.Tensor:
        """``W x + b + s dW x``."""
        base = self.frozen_forward(x)
        return self.delta.added(base, self.dropout(x), self.scale).to(base.dtype)

    def added_to_linear(self, x: torch.Tensor) -> torch.Tensor:
        """The same where it is ``plain``."""
        b, a = cast(Factored, self.delta).factors()
        return adapted_linear(x, cast(nn.Linear, self.base), a, b, self.scale)

    def added_in_float32(self, x: torch.Tensor) -> torch.Tensor:
        """The same where the frozen weights are kept in half precision: the adapter computes in its own dtype."""
        base = self.frozen_forward(x)
        return self.delta.added(base, self.dropout(x.float()), self.scale).to(base.dtype)

    def decomposed(self, x: torch.Tensor) -> torch.Tensor:
        """``f (W x + b + s dW x) + (1 - f) b`` with f = m / |W + s dW|: equals f (W + s dW) x + b, and W x + b at start."""
        if self.plain:
            total = self.added_to_linear(x)
            dtype = total.dtype
        else:
            base = self.frozen_forward(x)
            dtype = base.dtype
            total = self.delta.added(base, self.dropout(x.to(self.magnitude.dtype)), self.scale)
        return rescale(total, self.magnitude / self.row_norms(), self.base_bias()).to(dtype)

    def rewritten(self, x: torch.Tensor) -> torch.Tensor:
        """The layer of a delta that is no sum."""
        return cast(Delta, self.delta).layer(self, x, self.scale)

    def watched(self, x: torch.Tensor) -> torch.Tensor:
        """``W x + b``, and the adapter's tensors get the gradients they would have if it were added, s (g B)^T x for A and so on."""
        base = self.frozen_forward(x)
        if self.delta.additive and self.spec.decomposition == "none":
            path = self.delta(self.dropout(x.detach().to(self.delta_dtype())), self.scale)
        else:
            path = self.own_path()(x.detach())
        return Ghost.apply(base, path.to(base.dtype))

    def frozen_forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the module computes without this adapter."""
        if self.beneath is not None:
            return self.beneath(x)
        return type(self.base).forward(self.base, x)  # type: ignore[union-attr]

    # -- the weight, from which merging, saving and analysis are written once -----------------------------------------

    @property
    def on_weight(self) -> bool:
        """Whether the adapted module has one weight matrix, W."""
        return self.site.kind in ("linear", "conv1d")

    def base_weight(self) -> torch.Tensor:
        """The frozen W as (out x in), whatever way round the module keeps it."""
        weight: torch.Tensor = self.base.weight  # type: ignore[union-attr, assignment]
        return weight.T if self.site.kind == "conv1d" else weight

    def base_bias(self) -> torch.Tensor | None:
        """The frozen b (out,), where there is one."""
        return getattr(self.base, "bias", None)

    def effective_bias(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """b' (out,) for W and b as they were before merging."""
        return self.delta.effective_bias(weight, bias, self.scale)

    @torch.no_grad()
    def fold(self) -> None:
        """Write the effective values into the module, rounded once from float64, and leave it. RunError where that cannot be."""
        if self.base is None or self.delta.unmergeable:
            raise RunError(
                f"{self.site.name} cannot be folded into a weight: {self.delta.unmergeable or 'it has none'}"
            )
        if self.delta.replaces:
            for name, original in self.originals.items():
                original.copy_(self.delta.get_parameter(name))
        elif self.on_weight:
            self.double()
            weight, bias = self.base_weight(), self.base_bias()
            wide = weight.double()
            new_bias = self.effective_bias(wide, None if bias is None else bias.double())
            weight.copy_(self.effective_weight(wide))
            if bias is not None:
                bias.copy_(new_bias)  # type: ignore[arg-type]
        self.switch(DROPPED)

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
        """Whether the function is still exactly the frozen one's (true for a fresh adapter)."""
        if self.delta.replaces:
            return all(torch.equal(self.delta.get_parameter(name), p) for name, p in self.originals.items())
        if self.spec.decomposition == "magnitude" and not torch.equal(self.magnitude, self.base_squared.sqrt()):
            return False
        return self.delta.neutral()

    def freeze(self) -> None:
        """No tensor receives gradients."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def thaw(self, but: Collection[str] = ()) -> None:
        """The trained tensors receive gradients, ``but`` for some, and for those that were settled for good."""
        for name, parameter, _ in self.trained_tensors():
            parameter.requires_grad_(name not in self.settled and name not in but)

    def settle(self, name: str) -> None:
        """Stop training the tensor ``name`` for good."""
        self.settled.add(name)
        {key: tensor for key, tensor, _ in self.tensors()}[name].requires_grad_(False)

    # -- rank units ---------------------------------------------------------------------------------------------------

    @property
    def live(self) -> int:
        """How many rank units are live."""
        return int(self.units.sum())

    @property
    def divisible(self) -> bool:
        """Whether rank units can be taken out of it one by one."""
        return any(name in self.delta.rank_axes for name in self.delta.closers())

    @property
    def in_function(self) -> bool:
        """Whether it adds anything to the function, trained or not: it is not off, and not without any live unit."""
        return self.state in (ON, FROZEN) and (self.live > 0 or not self.divisible)

    def cut(self, width: int | None) -> None:
        """Compute with the first ``width`` rank units alone; the others keep their values. None: with all of them."""
        self.delta.width = None if width is None or width >= self.rank else width
        self.units = torch.arange(self.rank) < (self.rank if width is None else width)

    def keep(self, units: torch.Tensor) -> None:
        """Exactly these rank units (rank, true or false) are live; the others are closed: they add nothing, and can be reopened."""
        self.delta.width = None
        self.units = units.clone().cpu()
        if not self.units.all():
            self.delta.close(~self.units)

    def parameters_at(self, live: int) -> int:
        """Trained parameters of its own with ``live`` rank units."""
        if live == 0 and self.divisible:
            return 0
        return sum(self.size(name, parameter, live) for name, parameter, _ in self.trained_tensors())

    def size(self, name: str, parameter: torch.Tensor, live: int) -> int:
        """Numbers in the tensor ``name`` that belong to ``live`` rank units, or to none in particular."""
        axes = len(axes_of(self.delta, name)) if self.divisible else 0
        return int(parameter.numel() * live**axes // self.rank**axes) if axes else parameter.numel()

    def packed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The live rank units of the tensor ``name``: what is worth keeping of it."""
        if self.divisible and not self.units.all():
            for axis in axes_of(self.delta, name):
                tensor = tensor.index_select(axis, self.units.nonzero().flatten().to(tensor.device))
        return tensor

    def unpacked(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The whole tensor from its live rank units, with zeros in the others' place."""
        if not self.divisible or self.units.all():
            return tensor
        shape = [self.rank if axis in axes_of(self.delta, name) else size for axis, size in enumerate(tensor.shape)]
        return self.spread(name, tensor, self.units.nonzero().flatten().tolist(), tensor.new_zeros(shape))

    def spread(self, name: str, tensor: torch.Tensor, units: Sequence[int], whole: torch.Tensor) -> torch.Tensor:
        """A copy of ``whole`` with ``tensor``, which has these rank units alone, in their place."""
        axes = axes_of(self.delta, name)
        places = [
            torch.tensor([*(units if axis in axes else range(size))], dtype=torch.long)
            for axis, size in enumerate(whole.shape)
        ]
        found = whole.clone()
        found[torch.meshgrid(*places, indexing="ij")] = tensor.to(whole)
        return found

    # -- switching ----------------------------------------------------------------------------------------------------

    def switch(self, state: str) -> None:
        """Put the adapter into ``state``: DROPPED, FROZEN, ON or WATCHED."""
        self.state = state
        self.freeze()
        if state == ON:
            self.thaw()
        elif state == WATCHED:
            self.thaw(but=self.delta.asleep())
        if self.base is None:
            return
        if self.delta.replaces:
            replace_parameters(self)
        else:
            stack(self)

    @property
    def plain(self) -> bool:
        """Whether it adds a product of two factors to a frozen linear layer, of the same input and in the same dtype."""
        return (
            type(self.base) is nn.Linear
            and self.beneath is None
            and self.spec.dropout == 0
            and isinstance(self.delta, Factored)
            and self.delta.by_factors
            and self.base.weight.dtype == self.delta_dtype()
        )

    def path(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The forward that stands in for the module's: closed, chosen once."""
        return self.watched if self.state == WATCHED else self.own_path()

    def own_path(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The same for an adapter that is in the function."""
        if not self.delta.additive:
            return self.rewritten
        if self.spec.decomposition == "magnitude":
            return self.decomposed
        if self.plain:
            return self.added_to_linear
        if not self.on_weight or self.base_weight().dtype == self.delta_dtype():
            return self.added
        return self.added_in_float32

    def delta_dtype(self) -> torch.dtype:
        """The dtype the adapter's tensors are kept in."""
        return next(self.delta.parameters(), torch.empty(0)).dtype


def replace_parameters(adapter: Adapter) -> None:
    """Put the adapter's copies in the module's own parameters' place, or give it those back. RunError where another's are there."""
    assert adapter.base is not None
    held, originals = adapter.base._parameters, adapter.originals
    own = {name: adapter.delta.get_parameter(name) for name in originals}
    if any(held[name] is not originals[name] and held[name] is not own[name] for name in originals):
        if adapter.state == DROPPED:
            return
        adapter.state = DROPPED
        adapter.freeze()
        raise RunError(
            f"two adapters at once on {adapter.site.name}, and both stand in for its own parameters",
            hint="switch one of them off first",
        )
    held.update(originals if adapter.state == DROPPED else own)


def stack(adapter: Adapter) -> None:
    """Give the module the forward of the adapters on it that are in the function, each standing on the one before.

    Raises RunError where two are in the function at once and one of them is no plain sum: their order would matter.
    """
    base = adapter.base
    assert base is not None
    others = [child for child in base.children() if isinstance(child, Adapter)]
    live = [a for a in (others if adapter in others else [*others, adapter]) if a.state != DROPPED]
    if len(live) > 1 and not all(a.delta.additive and a.spec.decomposition == "none" for a in live):
        adapter.state = DROPPED
        adapter.freeze()
        raise RunError(
            f"two adapters at once on {adapter.site.name}, and one of them is no plain sum W + s dW",
            hint="switch one of them off first",
        )
    base.__dict__.pop("forward", None)
    beneath = None
    for each in live:
        each.__dict__["beneath"] = beneath
        beneath = each.path()
    if beneath is not None:
        base.forward = beneath
