"""longlora: LoRA, and what trains in full beside it. What goes on during training is tested in tests/training/updates."""

from __future__ import annotations

from support.adapters.cases import RANK
from support.adapters.contract import contract
from torch import Size

from lorakit.backbone.site import Site


def announced(site: Site) -> int:
    """rank (in + out) of a projection, all parameters of a norm or of the table of embeddings."""
    own = sum(Size(shape).numel() for _, shape in site.parameters)
    return own or RANK * (site.in_features + site.out_features)


test_contract = contract("longlora", parameters=announced)
