"""S2-Attn, shifted sparse attention (Chen et al. 2024, arXiv 2309.12307, section 3.2), as one of transformers' attention functions.

A row's tokens stand in groups of G, and a token attends within its own:

    the first half of the heads     [0, G), [G, 2G), ...
    the other heads                 [0, G/2), [G/2, 3G/2), ...

What the model's own mask hides (later tokens, padding) stays hidden. Groups are counted from a row's first token and nothing wraps around
its ends, so a row comes out the same alone and in any batch; one of at most G tokens is attended in full. Evaluation always is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from lorakit.backbone.attention import attention_modules, leaves_to_its_kernel, original_attention, with_attention

Tensor = torch.Tensor
Attend = Callable[..., Tensor]
"""Queries, keys, values (rows, heads, tokens, width) and a mask that broadcasts to (rows, heads, tokens, tokens) -> like the queries."""

ATTENTIONS = ("sdpa", "eager")
NAMED = "lorakit_shifted_{}"
GROUP = "shifted_group"
"""Where the copy of a config keeps G."""


class ShiftedAttention:
    """S2-Attn in the attention modules of ``layers``, wherever they are in training mode, until ``remove``."""

    def __init__(self, layers: Sequence[nn.Module], group: int):
        self.plain: dict[Any, Any] = {module: module.config for part in layers for module in attention_modules(part)}
        for module, config in self.plain.items():
            module.config = with_attention(config, registered(config._attn_implementation))
            module.config.__dict__[GROUP] = group

    def remove(self) -> None:
        """Give the modules their own attention back."""
        for module, config in self.plain.items():
            module.config = config


def registered(name: str) -> str:
    """The name under which transformers finds S2-Attn in place of the attention ``name``."""
    from transformers import AttentionInterface  # which takes seconds to import

    AttentionInterface.register(NAMED.format(name), partial(attend, name))
    return NAMED.format(name)


def attend(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """S2-Attn in training; in evaluation, and for rows that one group holds, the attention ``name``."""
    group: int = module.config.__dict__[GROUP]
    if not module.training or query.shape[2] <= group:
        attention = original_attention(name, module)
        full: tuple[Tensor, Tensor | None] = attention(module, query, key, value, mask, **kwargs)
        return full
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    causal = leaves_to_its_kernel(name, module, mask, kwargs.get("is_causal"))
    dropout, scale = kwargs.get("dropout", 0.0), kwargs.get("scaling")
    kernel: Attend = partial(call_kernel, dropout_p=dropout, scale=scale, is_causal=causal)
    if mask is not None:
        mask = mask.expand(len(query), -1, query.shape[2], -1)
        mask = mask if mask.dtype == torch.bool else mask.to(query.dtype)
    return by_length(query, key, value, mask, group, kernel).transpose(1, 2).contiguous(), None


def call_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Tensor:
    """PyTorch's attention; a token always sees itself, so that padding with nothing to see gives no NaN."""
    if mask is not None:
        mask = mask.clone()
        mask.diagonal(dim1=-2, dim2=-1).fill_(mask.dtype == torch.bool)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, **kwargs)


def by_length(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, group: int, kernel: Attend) -> Tensor:
    """In groups the rows of more than ``group`` tokens, the others in full."""
    if mask is None:
        return shifted(query, key, value, None, group, kernel)
    short = row_lengths(mask) <= group
    if not short.any():
        return shifted(query, key, value, mask, group, kernel)
    found = kernel(*(states[short, :, :group] for states in (query, key, value)), mask[short, :, :group, :group])
    out = found.new_zeros(query.shape)
    out[short, :, :group] = found
    if not short.all():
        long = ~short
        out[long] = shifted(query[long], key[long], value[long], mask[long], group, kernel)
    return out


def row_lengths(mask: Tensor) -> Tensor:
    """(rows,) The number of each row's last token that any token sees, counted from 1."""
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    places = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    return (visible.any(dim=1).any(dim=1) * places).amax(dim=-1)


def shifted(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, group: int, kernel: Attend) -> Tensor:
    """Half of the heads in groups from the first token on, the others in groups that begin half a group later."""
    half = query.shape[1] // 2
    halves = [(slice(None, half), 0), (slice(half, None), group // 2)]
    return torch.cat(
        [in_groups(query[:, h], key[:, h], value[:, h], mask, group, first, kernel) for h, first in halves], dim=1
    )


def in_groups(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, group: int, first: int, kernel: Attend
) -> Tensor:
    """Attention within [0, first), then within groups of ``group`` tokens, then within what is left."""
    rows, tokens = len(query), query.shape[2]
    number = (tokens - first) // group
    end = first + number * group
    parts = []
    for start, stop in ((0, first), (end, tokens)):
        own = slice(start, stop)
        if start < stop:
            parts.append(
                kernel(
                    query[:, :, own], key[:, :, own], value[:, :, own], None if mask is None else mask[..., own, own]
                )
            )
    if number:
        whole = slice(first, end)
        states = [each[:, :, whole] for each in (query, key, value)]
        if mask is None:  # heads as rows and groups as heads: mostly a view, where a mask would have to be repeated
            found = kernel(*(each.flatten(0, 1).unflatten(1, (number, group)) for each in states), None)
            parts.insert(int(first > 0), found.flatten(1, 2).unflatten(0, (rows, -1)))
        else:
            grouped = (each.unflatten(2, (number, group)).transpose(1, 2).flatten(0, 1) for each in states)
            found = kernel(*grouped, blocks_of(mask[..., whole, whole], number, group))
            parts.insert(int(first > 0), found.unflatten(0, (rows, number)).transpose(1, 2).flatten(2, 3))
    return torch.cat(parts, dim=2)


def blocks_of(mask: Tensor, number: int, group: int) -> Tensor:
    """(rows * number, heads, group, group) The blocks on the diagonal of a mask (rows, heads, number * group, number * group)."""
    split = mask.unflatten(3, (number, group)).unflatten(2, (number, group))
    return split.diagonal(dim1=2, dim2=4).movedim(-1, 1).flatten(0, 1)
