"""How many parameters an adapter trains, worked out before any is built: the currency of every budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.site import Site

MODULE = "module"
"""The kind of site that has parameters of its own to train."""


def count_parameters(spec: AdapterSpec, site: Site, rank: int) -> int:
    """Trained parameters of ``site`` at ``rank``, what it shares with others left out."""
    if rank <= 0:
        return 0
    delta = deltas.get(spec.delta)
    shapes = delta.shapes(site, rank, spec.settings)
    own = sum(torch.Size(shape).numel() for name, shape in shapes.items() if spec.trains(delta.role_of(name)))
    return own + (site.out_features if spec.decomposition == "magnitude" and spec.trains("magnitude") else 0)


def shared_shapes(
    spec: AdapterSpec, sites: Sequence[Site], rank_of: Callable[[Site], int]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Group -> tensor -> shape, of what ``sites`` have in common."""
    delta = deltas.get(spec.delta)
    if not delta.shared_roles:
        return {}
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(delta.group(site), []).append(site)
    return {
        group: delta.shared_shapes(members, max(map(rank_of, members)), spec.settings)
        for group, members in groups.items()
    }


def count_shared(spec: AdapterSpec, sites: Sequence[Site], rank_of: Callable[[Site], int]) -> int:
    """Trained parameters that ``sites`` have in common, counted once."""
    delta = deltas.get(spec.delta)
    return sum(
        torch.Size(shape).numel()
        for shapes in shared_shapes(spec, sites, rank_of).values()
        for name, shape in shapes.items()
        if spec.trains(delta.shared_roles[name])
    )


def spec_for(site: Site, linear: AdapterSpec, shortcut: AdapterSpec) -> AdapterSpec:
    """The axes of this site; a module that trains in full beside projections has no others than that."""
    if site.is_shortcut:
        return shortcut
    return in_full(linear) if site.kind == MODULE and MODULE not in deltas.get(linear.delta).kinds else linear


def in_full(spec: AdapterSpec) -> AdapterSpec:
    """The axes of a module that trains in full beside adapters of ``spec``."""
    return replace(
        spec,
        delta="own_parameters",
        init="nothing",
        scale="none",
        trainable="all",
        decomposition="none",
        lr_ratio=1.0,
        dropout=0.0,
        options=(),
        init_steps=AdapterSpec.init_steps,
    )


def tensor_shapes(site: Site, linear: AdapterSpec) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape, of a site that is no shortcut, where the adapters of modules have the axes ``linear``."""
    spec = spec_for(site, linear, linear)
    return deltas.get(spec.delta).shapes(site, spec.rank, spec.settings)


def sharing(sites: Sequence[Site], linear: AdapterSpec) -> list[Site]:
    """Those of the sites that the delta of ``linear`` sits on, which may have tensors in common."""
    return [site for site in sites if spec_for(site, linear, linear) is linear and not site.is_shortcut]


def costs(
    sites: Sequence[Site],
    linear: AdapterSpec,
    shortcut: AdapterSpec,
    ranks: Mapping[str, int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, int]:
    """Site name -> trained parameters of its own at its full rank; what sites share is in none of them."""
    full, given = ranks or {}, options or {}
    specs = [(site, spec_for(site, linear, shortcut).with_options(given.get(site.name))) for site in sites]
    return {site.name: count_parameters(spec, site, full.get(site.name, spec.rank)) for site, spec in specs}


def shared_cost(
    sites: Sequence[Site], linear: AdapterSpec, shortcut: AdapterSpec, ranks: Mapping[str, int] | None = None
) -> int:
    """Trained parameters that sites have in common: always spent, whatever is on."""
    return count_shared(linear, sharing(sites, linear), lambda site: (ranks or {}).get(site.name, linear.rank))


def uniform_cost(sites: Sequence[Site], linear: AdapterSpec, shortcut: AdapterSpec, rank: int) -> int:
    """Trained parameters with every site at ``rank``."""
    ranks = dict.fromkeys((site.name for site in sites), rank)
    return sum(costs(sites, linear, shortcut, ranks).values()) + shared_cost(sites, linear, shortcut, ranks)
