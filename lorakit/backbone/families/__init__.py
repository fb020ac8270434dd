"""Model families: one file each, registering a ``Family`` that says where the projections and the residual sums are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.registry import Registry


@dataclass(frozen=True)
class Norms:
    """The two norms that close a layer's residual sums, as paths inside the layer.

    Post-norm blocks compute ``y = attention(h + Attn(h))`` and ``output(y + MLP(y))``: both norms are named. Pre-norm blocks
    compute ``y = h + Attn(norm(h))`` and ``y + MLP(attention(y))``.
    """

    attention: str
    """The norm after the attention sum: in pre-norm blocks the one before the MLP."""
    output: str | None = None
    """The norm after the MLP sum; None in pre-norm blocks."""


@dataclass(frozen=True)
class Family:
    """What lorakit knows of one model family."""

    name: str
    """What the registry calls it."""
    model_types: tuple[str, ...]
    """The transformers ``model_type`` values it serves."""
    layers: str
    """The path of the list of layers, from the base model."""
    roles: Mapping[str, str]
    """Module path inside a layer -> role: one of ROLES, or ``qkv`` where the three share one matrix."""
    norms: Callable[[Any], Norms | str]
    """A model's config -> its Norms, or the reason, in words, why shortcuts cannot be wired into such a model."""
    first_token_from: str = ""
    """Where the head reads the last layer's first token alone: the path of the module inside that layer from whose inputs on, all
    (rows, tokens, width), no token sees another; else empty."""
    mlp_width: str = "intermediate_size"
    """The config's key of the MLPs' hidden width, which is one for all layers."""
    activation: str = "hidden_act"
    """The config's key of the MLPs' activation."""
    head_width: str = ""
    """The config's key of a head's width, where it need not be the hidden width over the number of heads; else empty."""


families: Registry[Family] = Registry("model family", "lorakit.backbone.families")
