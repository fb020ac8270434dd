"""An adapter: a small trained change of one place in a frozen model.

                  +---- W x + b --------------+             W: out x in, frozen, where it always was
                  |                           |             dW: out x in, the delta, made of a few thin tensors
    x (.., in) ---+                          (+)--- y       s: the scale, alpha / rank for LoRA
                  |                           |             y: (.., out)
                  +---- dropout ---- s dW x --+

    y = W x + b + s dW x              LoRA: dW = B A, and dW x is B (A x): two thin products, dW itself is never built
    y = f (W x + s dW x) + b          with a magnitude m (DoRA): f = m / |W + s dW| by rows, m: out

What dW is made of is a file in ``deltas/`` (LoRA's is ``deltas/low_rank.py``); where it starts, one in ``inits/``. An
adapter puts such a delta on one site of a model. The module there keeps its weight and its place. While the adapter is
on, it stands in for the module's ``forward``; one that is off is simply not there, and the layer costs what the frozen
one costs (``switching``). Single parts of dW can be taken out (``rank_units``). Merging and analysis go through
``effective_weight``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters import switching
from lorakit.adapters.delta import Delta
from lorakit.adapters.factored import Factored
from lorakit.adapters.init import fresh_delta, inits
from lorakit.adapters.ops.ghost import Ghost
from lorakit.adapters.ops.rescale import rescale
from lorakit.adapters.ops.thin import adapted_linear
from lorakit.adapters.rank_units import RankUnits
from lorakit.adapters.shared import Shared
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import DROPPED, FROZEN, ON, WATCHED
from lorakit.adapters.whole import Whole
from lorakit.backbone.quantised import Int4Linear, MixedLinear, QuantisedLinear
from lorakit.backbone.site import Site
from lorakit.errors import RunError

NO_STATISTICS: Mapping[str, torch.Tensor] = MappingProxyType({})
SMALLEST_NORM = 1e-18
"""Stands in for the norm of a weight row that is zero, so that nothing is divided by zero; its square is a normal float32."""


class Adapter(nn.Module):
    """The adapter of one site.

    Args:
        site: where it sits.
        spec: what it is made of: its delta, init, scale, decomposition and so on.
        rank: how many rank units its delta has.
        base: the adapted module; None for what has none: a shortcut, or what a block puts into the model.
        generator: the random stream of its start.
        shared: the tensors that its delta has in common with other sites.
        statistics: what a data-driven init needs, as ``InitContext``'s fields; None where the tensors are to be loaded
            anyway, and the init is skipped.
        quantise: what an init that quantises needs: keeps a weight (out x in) rounded in ``base``, and gives what is kept.
        exact: whether its init decomposes large matrices exactly.
    """

    base: nn.Module | None
    """The adapted module. Not a child: the adapter lives inside its base."""
    beneath: switching.Forward | None
    """What the adapter stands on where the module has several: the forward of the one before. None: the module's own."""
    originals: dict[str, nn.Parameter]
    """The module's own parameters by name, where the delta stands in for them."""
    base_squared: torch.Tensor
    """(out,) |W|^2 by rows, where there is a magnitude."""

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
        quantise: Callable[[torch.Tensor], torch.Tensor] | None = None,
        exact: bool = False,
    ):
        super().__init__()
        self.site = site
        self.spec = spec
        self.rank = rank
        self.scale = spec.scale_at(rank)
        """s, that of the first rank; it stays when rank units go, unless what takes them sets another."""
        self.state = DROPPED
        """DROPPED, FROZEN, ON or WATCHED (``switching``)."""
        self.frozen_for_good: set[str] = set()
        """The tensors that something stopped training, whatever the state is."""
        self.__dict__["base"] = base
        self.__dict__["beneath"] = None
        weight = self.base_weight() if self.on_weight else None
        generator = generator or torch.Generator().manual_seed(0)
        self.delta = fresh_delta(site, spec, rank, weight, generator, shared, statistics, quantise, exact=exact)
        """What dW is made of."""
        self.units = RankUnits(self.delta, rank)
        """Its rank units: which are live, and how to take some out."""
        if self.delta.replaces_parameters:
            assert isinstance(base, nn.Module)
            self.__dict__["originals"] = {name: base.get_parameter(name) for name, _ in site.parameters}
            for name, original in self.originals.items():
                self.delta.get_parameter(name).data.copy_(original.data)
        self.dropout = nn.Dropout(spec.dropout) if spec.dropout > 0 else nn.Identity()
        if spec.decomposition == "magnitude":
            self.measure_base()
            norms = self.row_norms() if quantise is not None else self.base_squared.sqrt()
            self.magnitude = nn.Parameter(norms)
        if base is not None:
            self.to(next(chain(base.parameters(), base.buffers())).device)
        switching.freeze(self)

    # -- the hot path: `switching` gives the module one of these as its forward ---------------------------------------

    def added(self, x: torch.Tensor) -> torch.Tensor:
        """``W x + b + s dW x``."""
        base = self.frozen_forward(x)
        return self.delta.added(base, self.dropout(x), self.scale).to(base.dtype)

    def added_fused(self, x: torch.Tensor) -> torch.Tensor:
        """The same in one operation, for a product of two factors beside a linear layer."""
        b, a = cast(Factored, self.delta).factors()
        return adapted_linear(x, cast(nn.Linear, self.base), a, b, self.scale)

    def added_to_weight(self, x: torch.Tensor) -> torch.Tensor:
        """The same as one product with W + s dW, for an update that is computed whole; but as two in autocast's half precision, in which
        a small dW would be lost in W.
        """
        if torch.is_autocast_enabled(x.device.type):
            return self.added(x)
        base = cast(nn.Linear, self.base)
        return F.linear(x, base.weight + cast(Whole, self.delta).whole(self.scale), base.bias)

    def added_in_float32(self, x: torch.Tensor) -> torch.Tensor:
        """The same where the frozen weights are kept in half precision: the adapter computes in its own dtype."""
        base = self.frozen_forward(x)
        return self.delta.added(base, self.dropout(x.float()), self.scale).to(base.dtype)

    def decomposed(self, x: torch.Tensor) -> torch.Tensor:
        """``f (W x + b + s dW x) + (1 - f) b`` with f = m / |W + s dW|: equals f (W + s dW) x + b, and W x + b at start."""
        base = self.frozen_forward(x)
        total = self.delta.added(base, self.dropout(x.to(self.magnitude.dtype)), self.scale)
        return rescale(total, self.magnitude / self.row_norms(), self.base_bias()).to(base.dtype)

    def decomposed_fused(self, x: torch.Tensor) -> torch.Tensor:
        """The same with the sum in one operation."""
        total = self.added_fused(x)
        return rescale(total, self.magnitude / self.row_norms(), self.base_bias()).to(total.dtype)

    def rewritten(self, x: torch.Tensor) -> torch.Tensor:
        """The layer of a delta that is no sum."""
        return cast(Delta, self.delta).layer_forward(self, x, self.scale)

    def watched(self, x: torch.Tensor) -> torch.Tensor:
        """``W x + b``, and the adapter's tensors get the gradients they would have if it were added, s (g B)^T x for A and so on."""
        base = self.frozen_forward(x)
        if switching.is_plain_sum(self):
            path = self.delta(self.dropout(x.detach().to(self.delta_dtype())), self.scale)
        else:
            path = switching.adapted_forward(self)(x.detach())
        return Ghost.apply(base, path.to(base.dtype))

    def frozen_forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the module computes without this adapter."""
        if self.beneath is not None:
            return self.beneath(x)
        return type(self.base).forward(self.base, x)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A shortcut's path, which has no base: ``s dW x`` for x (..., in), in the adapter's dtype; 0 where it is only watched."""
        if self.state == WATCHED:
            watched = self.delta(self.dropout(x.detach().to(self.delta_dtype())), self.scale)
            return Ghost.apply(torch.zeros_like(watched), watched)
        return self.delta(self.dropout(x.to(self.delta_dtype())), self.scale)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Adapter:
        """Whatever moves the adapter to a device moves the module's own parameters too, where they are in no module meanwhile."""
        super()._apply(fn, recurse)
        if self.state != DROPPED:
            for name, original in self.__dict__.get("originals", {}).items():
                place = fn(torch.empty(0, device=original.device)).device
                if place != original.device:
                    self.originals[name] = nn.Parameter(original.detach().to(place), requires_grad=False)
        return self

    # -- its tensors --------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor, trained or not."""
        yield from self.delta.tensors()
        if self.spec.decomposition == "magnitude":
            yield "magnitude", self.magnitude, "magnitude"

    def trained_tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """Those that train while the adapter is on."""
        return (entry for entry in self.tensors() if self.spec.trains(entry[2]))

    def parameters_at(self, live: int) -> int:
        """Trained parameters of its own with ``live`` rank units."""
        if live == 0 and self.units.divisible:
            return 0
        return sum(self.units.size(name, parameter, live) for name, parameter, _ in self.trained_tensors())

    def delta_dtype(self) -> torch.dtype:
        """The dtype the adapter's tensors are kept in; that of its buffers where all that it trains is shared."""
        buffers = (buffer for buffer in self.delta.buffers() if buffer.is_floating_point())
        return next(chain(self.delta.parameters(), buffers), torch.empty(0)).dtype

    # -- its state ----------------------------------------------------------------------------------------------------

    def switch(self, state: str) -> None:
        """Put the adapter into ``state``: DROPPED, FROZEN, ON or WATCHED."""
        switching.switch(self, state)

    @property
    def in_function(self) -> bool:
        """Whether it adds anything to the function, trained or not: it is not off, and not without any live rank unit."""
        return self.state in (ON, FROZEN) and (self.units.live > 0 or not self.units.divisible)

    def changes_nothing(self) -> bool:
        """Whether the function is still exactly the frozen one's (true for a fresh adapter)."""
        if self.delta.replaces_parameters:
            return all(torch.equal(self.delta.get_parameter(name), p) for name, p in self.originals.items())
        if self.spec.decomposition == "magnitude" and not torch.equal(self.magnitude, self.base_squared.sqrt()):
            return False
        return self.delta.is_zero()

    @torch.no_grad()
    def measure_base(self) -> None:
        """Note |W|^2 by rows, where there is a magnitude: now, and whenever the frozen weight has changed."""
        if self.spec.decomposition == "magnitude":
            weight = self.base_weight().to(self.delta_dtype())  # never a shortcut: see shortcut_spec
            squared = weight.square().sum(dim=1)
            self.register_buffer("base_squared", squared, persistent=False)

    # -- the weight ---------------------------------------------------------------------------------------------------

    @property
    def on_weight(self) -> bool:
        """Whether the adapted module has one weight matrix, W."""
        return self.site.kind in ("linear", "conv1d")

    def base_weight(self) -> torch.Tensor:
        """The frozen W as (out x in), whatever way round the module keeps it; gathered, by all processes, where it is sharded."""
        weight: torch.Tensor = self.base.weight  # type: ignore[union-attr, assignment]
        if hasattr(weight, "full_tensor"):
            weight = weight.full_tensor()
        return weight.T if self.site.kind == "conv1d" else weight

    @property
    def own_base(self) -> bool:
        """Whether the frozen weight is one that the run chose: what the delta holds belongs to that, and to no other."""
        quantises = inits.get(self.spec.init).quantises
        return self.base is not None and (quantises or isinstance(self.base, MixedLinear))

    @property
    def base_dtype(self) -> torch.dtype:
        """W's, or what it is made dense in where it is quantised."""
        return self.base.dtype if isinstance(self.base, QuantisedLinear) else self.base_weight().dtype

    def base_bias(self) -> torch.Tensor | None:
        """The frozen b (out,), where there is one."""
        return getattr(self.base, "bias", None)

    def effective_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """W' (out x in) for W (out x in), in W's dtype, computed in the wider one of W's and the adapter's."""
        wide = weight.to(torch.promote_types(weight.dtype, self.delta_dtype()))
        adapted = self.delta.effective_weight(wide, self.scale)
        if self.spec.decomposition == "magnitude":
            norms = adapted.norm(dim=1).clamp_min(SMALLEST_NORM)
            adapted = (self.magnitude / norms)[:, None] * adapted
        return adapted.to(weight.dtype)

    def effective_bias(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """b' (out,) for W and b as they were before merging."""
        return self.delta.effective_bias(weight, bias, self.scale)

    @torch.no_grad()
    def row_norms(self) -> torch.Tensor:
        """|W + s dW| by rows (out,), outside the graph as DoRA's section 4.3 has it, and never in autocast's half precision."""
        weight = self.base_weight().to(self.base_squared.dtype)
        with torch.autocast(weight.device.type, enabled=False):
            squared = self.delta.row_norms_squared(weight, self.base_squared, self.scale)
        return squared.clamp_min(SMALLEST_NORM**2).sqrt()

    @torch.no_grad()
    def fold_into_zero_points(self) -> bool:
        """Where the update is the same for all inputs of a group in which W is quantised: add it to these groups' zero points, and leave.

        Returns whether it is so. The sum is rounded once from float64; W's integers and scales stay.
        """
        if not isinstance(self.base, Int4Linear) or self.spec.decomposition != "none":
            return False
        self.double()
        update = self.delta.by_groups(self.base.group)
        if update is None:
            return False
        self.base.zero.copy_(self.base.zero.double() + self.scale * update)
        self.switch(DROPPED)
        return True

    def folded_into(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """W' (out x in) and b' (out,) for W and b, in float64, in which the adapter stays."""
        self.double()
        wide = weight.double()
        new_bias = self.effective_bias(wide, None if bias is None else bias.double())
        return self.effective_weight(wide), new_bias

    @torch.no_grad()
    def fold(self) -> None:
        """Write the effective values into the module, rounded once from float64, and leave it. RunError where that cannot be."""
        if self.base is None or self.delta.unmergeable:
            raise RunError(
                f"{self.site.name} cannot be folded into a weight: {self.delta.unmergeable or 'it has none'}"
            )
        if self.delta.replaces_parameters:
            for name, original in self.originals.items():
                original.copy_(self.delta.get_parameter(name))
        elif self.on_weight:
            weight, bias = self.base_weight(), self.base_bias()
            new_weight, new_bias = self.folded_into(weight, bias)
            weight.copy_(new_weight)
            if bias is not None:
                bias.copy_(new_bias)  # type: ignore[arg-type]
        self.switch(DROPPED)
