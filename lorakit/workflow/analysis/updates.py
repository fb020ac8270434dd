"""The updates of a run's weights, one after the other: at each site W, and W' as what the run has trained makes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import cast

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.delta import Delta
from lorakit.adapters.deltas.masked import Masked
from lorakit.artifacts.combination import moves_bias
from lorakit.backbone.site import Site

Tensor = torch.Tensor
Factors = tuple[Tensor, Tensor]

OFF = "off in the end: no part of the function"
NOTHING = "the update is zero"


@dataclass(frozen=True)
class WeightUpdate:
    """dW = W' - W of one site, the adapter's scale included, in float64.

    weight: W (out x in), made dense where it is quantised; None where nothing is beneath (a shortcut). factors: (b, a) with dW = b a, or
    None where that is not how it is made; full: dW itself then. rows: LoRA's A (r x in), None where there is no such factor.
    """

    site: Site
    weight: Tensor | None
    factors: Factors | None
    full: Tensor | None
    rows: Tensor | None

    @property
    def compact(self) -> Tensor | Factors:
        """The factors, or dW."""
        if self.factors is not None:
            return self.factors
        assert self.full is not None
        return self.full

    @property
    def dense(self) -> Tensor:
        """dW (out x in)."""
        return self.factors[0] @ self.factors[1] if self.factors is not None else self.compact  # type: ignore[return-value]

    @property
    def is_zero(self) -> bool:
        """Whether W' is W, as where a bias alone has moved."""
        return not self.dense.any()


@torch.no_grad()
def updates_of(adapted: AdaptedModel) -> Iterator[WeightUpdate]:
    """Those of all sites that have one, in model order; nothing dense of a site is kept when the next one is asked for."""
    places = {site.name: site for site in adapted.backbone.anatomy.sites}
    for name, adapter in adapted.adapters.items():
        if not reason_without(adapter, places.get(name)):
            update = update_of(adapter, places.get(name, adapter.site))
            if not update.is_zero:
                yield update


def left_out(adapted: AdaptedModel, found: Collection[str]) -> dict[str, list[str]]:
    """Reason -> the names of the sites without an update of a matrix. found: those that ``updates_of`` has given."""
    places = {site.name: site for site in adapted.backbone.anatomy.sites}
    without: dict[str, list[str]] = defaultdict(list)
    for name, adapter in adapted.adapters.items():
        if name not in found:
            without[reason_without(adapter, places.get(name)) or NOTHING].append(name)
    return dict(without)


def reason_without(adapter: Adapter, projection: Site | None) -> str:
    """Why a site has no dW to look at; empty where it has one. projection: the model's own site of this name."""
    if not adapter.in_function:
        return OFF
    if adapter.delta.replaces_parameters:
        if projection is None or "weight" not in adapter.originals:
            return "biases, norms, embeddings and poolers are no projection's weight"
    elif adapter.delta.unmergeable:
        return f"there is no one dW: {adapter.delta.unmergeable}"
    elif not adapter.on_weight and not adapter.site.is_shortcut:
        return "it updates no weight"
    if isinstance(adapter.delta, Masked) and adapter.delta.closed_outputs():
        return (
            "outputs of it are closed, where W' is zero: dW is there the pretrained weight itself, and nothing learnt"
        )
    return NOTHING if adapter.changes_nothing() else ""


def update_of(adapter: Adapter, site: Site) -> WeightUpdate:
    """The update of an adapter that has one."""
    delta = adapter.delta
    if delta.replaces_parameters:
        before, after = adapter.originals["weight"].double(), delta.get_parameter("weight").double()
        turned = site.kind == "conv1d"
        before, after = (before.T, after.T) if turned else (before, after)
        return WeightUpdate(site, before, None, after - before, None)
    weight = adapter.base_weight().double() if adapter.on_weight else None
    plain = delta.additive and adapter.spec.decomposition == "none"
    rows = cast(Delta, delta).tensor("A").double() if plain and delta.plain_product else None
    factors = delta.factors() if plain else None
    if factors is not None:
        b, a = (factor.double() for factor in factors)
        return WeightUpdate(site, weight, (adapter.scale * b, a), None, rows)
    if weight is None:
        path: Tensor = delta.dense()
        return WeightUpdate(site, None, None, adapter.scale * path.double(), rows)
    return WeightUpdate(site, weight, None, adapter.effective_weight(weight) - weight, rows)


def moved_biases(adapted: AdaptedModel, found: Collection[str]) -> int:
    """How many sites change their bias too, which is in no number of a weight. found: those with an update."""
    return sum(
        changes_bias(adapter, name in found) for name, adapter in adapted.adapters.items() if adapter.in_function
    )


def changes_bias(adapter: Adapter, has_update: bool) -> bool:
    """Whether an adapter in the function changes the bias of a projection."""
    if not adapter.delta.replaces_parameters:
        return adapter.on_weight and moves_bias(adapter)
    before = adapter.originals.get("bias") if has_update else None
    return before is not None and not torch.equal(before, adapter.delta.get_parameter("bias"))
