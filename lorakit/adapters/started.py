"""The delta of a site at its start: built, begun, and given to the recipe's init."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lorakit.adapters.anchored import Anchored
from lorakit.adapters.delta import Delta, Shared, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.site import Site


def started(
    site: Site,
    spec: AdapterSpec,
    rank: int,
    weight: torch.Tensor | None,
    generator: torch.Generator,
    shared: Shared | None,
    statistics: Mapping[str, torch.Tensor] | None,
) -> Delta | Anchored:
    """The delta of one site at its start."""
    delta: Delta = deltas.get(spec.delta)(site, rank, dict(spec.options), shared)
    init = inits.get(spec.init)
    wide = None if weight is None else weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    delta.begin(generator)
    delta.prepare(wide)
    if statistics is not None:
        init(delta, InitContext(wide, spec.scale_at(rank), generator, **statistics))
    return Anchored(delta) if init.anchors else delta
