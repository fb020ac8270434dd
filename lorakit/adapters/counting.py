"""How many parameters an adapter trains, worked out before any is built: the currency of every budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.site import Site


def count(spec: AdapterSpec, site: Site, rank: int) -> int:
    """Trained parameters of ``site`` at ``rank``, before anything is built: the currency of every budget. Shared ones apart."""
    if rank <= 0:
        return 0
    delta = deltas.get(spec.delta)
    shapes = delta.shapes(site, rank, settings(spec))
    own = sum(torch.Size(shape).numel() for name, shape in shapes.items() if spec.trains(delta.role_of(name)))
    return own + (site.out_features if spec.decomposition == "magnitude" and spec.trains("magnitude") else 0)


def settings(spec: AdapterSpec) -> dict[str, Any]:
    """The values of the delta's options, defaults included."""
    delta = deltas.get(spec.delta)
    return delta.settings_of(dict(spec.options))


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
        group: delta.shared_shapes(members, max(map(rank_of, members)), settings(spec))
        for group, members in groups.items()
    }


def shared_count(spec: AdapterSpec, sites: Sequence[Site], rank_of: Callable[[Site], int]) -> int:
    """Trained parameters that ``sites`` have in common, counted once."""
    delta = deltas.get(spec.delta)
    return sum(
        torch.Size(shape).numel()
        for shapes in shared_shapes(spec, sites, rank_of).values()
        for name, shape in shapes.items()
        if spec.trains(delta.shared_roles[name])
    )
