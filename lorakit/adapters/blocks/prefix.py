"""Keys and values of virtual tokens, in every attention layer.

A layer with a prefix gets an attention function of ours (``backbone.attention``): it puts the prefix in front of the key and value
states, lets every token see it, and hands on to the function that the model was loaded with. The other layers, the masks and
the positions of the text know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.block import Block, Wiring, blocks, free_name
from lorakit.adapters.deltas.prefix import PREFIX, VirtualStates
from lorakit.adapters.switching import DROPPED
from lorakit.backbone.attention import attention_modules, leaves_to_its_kernel, original_attention, with_attention
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError

Tensor = torch.Tensor

ATTENTIONS = ("sdpa", "eager")
NAMED = "lorakit_prefix_{}"
PLAIN = "without_prefix"
"""Where the copy of a config keeps the one it was made from."""


class Prefixes:
    """Puts the prefixes that are in the function into their layers' attention."""

    def __init__(self, attentions: Sequence[nn.Module], adapters: Sequence[Adapter]):
        self.attentions = list(attentions)
        for attention, adapter in zip(attentions, adapters, strict=True):
            attention.add_module(free_name(attention, "adapter"), adapter)

    def wire(self) -> None:
        """Name our attention function in exactly the layers that have a prefix in the function."""
        for attention in self.attentions:
            config: Any = attention.config
            plain = config.__dict__.get(PLAIN, config)
            attention.config = prefixed(plain) if prefixes_in(attention) else plain


def prefixes_in(attention: nn.Module) -> list[VirtualStates]:
    """The prefixes of this attention that are in the function."""
    found = (child for child in attention.children() if isinstance(child, Adapter) and child.state != DROPPED)
    return [adapter.delta for adapter in found if isinstance(adapter.delta, VirtualStates)]


def prefixed(plain: Any) -> Any:
    """A copy of the config that differs in the attention function alone."""
    config = with_attention(plain, NAMED.format(plain._attn_implementation))
    config.__dict__[PLAIN] = plain
    return config


def attend(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The attention ``name`` with the module's prefixes in front of its keys and values, each (batch, heads, length, width)."""
    if leaves_to_its_kernel(name, module, mask, kwargs.get("is_causal")):
        rows, columns = query.shape[2], key.shape[2]
        mask = query.new_ones(1, 1, rows, columns, dtype=torch.bool).tril(columns - rows)
    for prefix in prefixes_in(module):
        key, value = prefix.in_front(key, value)
        if mask is not None:
            visible = mask.new_full((*mask.shape[:-1], prefix.rank), mask.dtype == torch.bool)
            mask = torch.cat([visible, mask], dim=-1)
    attention: Callable[..., Any] = original_attention(name, module)
    result: tuple[Tensor, Tensor | None] = attention(module, query, key, value, mask, **kwargs)
    return result


for attention_name in ATTENTIONS:
    AttentionInterface.register(NAMED.format(attention_name), partial(attend, attention_name))


class Attentions(Block):
    """The self-attention of every layer."""

    name: ClassVar = PREFIX
    summary: ClassVar = "the keys and values of every layer's attention"

    def sites(self, backbone: Backbone) -> list[Site]:
        """One a layer; its features are the widths of the key and the value states."""
        used = backbone.model.config.get_text_config()._attn_implementation
        for _, layer in backbone.anatomy.layers:
            self_attention(backbone, layer)
        if used not in ATTENTIONS:
            raise RecipeError(
                f"a prefix cannot be put into {used} attention", key="model.attention", valid=", ".join(ATTENTIONS)
            )
        return [
            Site(f"{path}.{PREFIX}", number, PREFIX, *key_and_value_widths(backbone, number), "layer")
            for number, (path, _) in enumerate(backbone.anatomy.layers)
        ]

    def wiring(self, backbone: Backbone, adapters: Sequence[Adapter]) -> Wiring:
        """Into the attention of the sites' layers."""
        layers = backbone.anatomy.layers
        return Prefixes([self_attention(backbone, layers[a.site.layer][1]) for a in adapters], adapters)


def self_attention(backbone: Backbone, layer: nn.Module) -> nn.Module:
    """The one module of the layer that takes its attention function from transformers. RecipeError where there is no such one."""
    found = attention_modules(layer)
    if len(found) != 1:
        raise RecipeError(
            f"prefix tuning has no way into the attention of a {backbone.anatomy.family} model: it is not computed by one of "
            "transformers' attention functions",
            key="adapter.method",
            hint="prompt_tuning works on the input, or lora on the projections",
        )
    return found[0]


def key_and_value_widths(backbone: Backbone, layer: int) -> tuple[int, int]:
    """(key width, value width) of a layer, told by its projections. RecipeError where they do not tell."""
    own = {site.role: site.out_features for site in backbone.anatomy.sites if site.layer == layer}
    if "k" in own and "v" in own:
        return own["k"], own["v"]
    config = backbone.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    groups = getattr(config, "num_key_value_heads", None) or heads
    if "qkv" not in own or not heads or own["qkv"] % (heads + 2 * groups):
        raise RecipeError(
            f"how wide the keys and values of this {backbone.anatomy.family} model are is not known",
            key="adapter.method",
        )
    width = own["qkv"] // (heads + 2 * groups) * groups
    return width, width


blocks.register(Attentions())
