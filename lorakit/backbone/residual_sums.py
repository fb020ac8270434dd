"""Where the residual sums of a layer are: what shortcuts add to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorakit.backbone.families import Family


@dataclass
class ResidualSums:
    """The two residual sums of one layer, after attention and after the MLP, named by the norms that follow them."""

    layer: nn.Module
    """Called with the hidden states (batch, length, width) as its first argument; returns them alone or first in a tuple."""
    path: str
    """Its name in the model."""
    post_norm: bool
    """Whether the norms stand behind the sums."""
    attention_norm: nn.Module
    """Post-norm, the norm applied to the attention sum; pre-norm, the one before the MLP. Its input is that sum either way."""
    output_norm: nn.Module | None
    """Post-norm, the norm applied to the MLP sum; pre-norm, None: the layer's output is that sum."""


def find_residual_sums(
    layers: Sequence[tuple[str, nn.Module]], family: Family, config: Any
) -> tuple[list[ResidualSums], str]:
    """Each layer's sums and an empty reason, or none and the reason, in words, why shortcuts cannot be wired in."""
    norms = family.norms(config)
    if isinstance(norms, str):
        return [], norms
    found = []
    for path, layer in layers:
        output = layer.get_submodule(norms.output) if norms.output else None
        found.append(ResidualSums(layer, path, output is not None, layer.get_submodule(norms.attention), output))
    return found, ""
