"""The frozen model's dropout on a CPU, with masks that are drawn ten times as fast.

torch draws a mask on a CPU number by number, from a generator that a 53-bit double is made from: about an eighth of a LoRA step. Here every
mask is 16-bit lanes of the SFC64 generator, which is seeded from torch's own stream: what is saved with that stream resumes to the bit.
A number is dropped with probability round(65536 p) / 65536, and the others are scaled by exactly that. Draws are others than
torch's, their distribution is the same. Attention with dropout, which torch computes in several passes on a CPU anyway, is written
out for the same reason; every other attention is left to transformers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.backbone.attention import attention_modules, with_attention

Tensor = torch.Tensor

LANES = 2**16
PLAIN = "sdpa"
NAME = "lorakit_sdpa"


def fast_dropout(model: nn.Module) -> None:
    """Let every ``nn.Dropout`` of the model, and its attention where that is ``sdpa``, draw their masks here."""
    from transformers import AttentionInterface  # which takes seconds to import

    AttentionInterface.register(NAME, attend)
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
    for module in attention_modules(model):
        config: Any = module.config
        own = any(
            isinstance(child, Adapter) for child in module.children()
        )  # a prefix, which hands on to another function
        if config._attn_implementation == PLAIN and not own:
            module.config = with_attention(config, NAME)


class Dropout(nn.Dropout):
    """torch's, where it is no GPU's that trains."""

    def forward(self, x: Tensor) -> Tensor:
        """x with some numbers zero and the others larger; x itself in evaluation."""
        return x * noise(x, self.p) if self.training and fast(x, self.p) else super().forward(x)


def fast(x: Tensor, p: float) -> bool:
    """Whether masks for x are drawn here."""
    return x.device.type == "cpu" and x.is_floating_point() and 0 < p < 1


def noise(x: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), in x's shape and dtype."""
    dropped = min(max(round(p * LANES), 1), LANES - 1)
    seed = int(torch.randint(2**63 - 1, ()))
    raw = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
    lanes = torch.from_numpy(raw).view(x.shape)
    kept = lanes >= dropped - LANES // 2
    return torch.where(kept, torch.tensor(LANES / (LANES - dropped), dtype=x.dtype), torch.tensor(0, dtype=x.dtype))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """softmax(s Q K^T + mask) with dropout, times V: (batch, length, heads, width) from (batch, heads, length, width) each.

    attention_mask: true, or 0, where a key is seen.
    """
    causal = kwargs.get("is_causal")
    unmasked = attention_mask is None and (getattr(module, "is_causal", True) if causal is None else causal)
    grouped = key.shape[1] != query.shape[1]
    if not fast(query, dropout) or unmasked or grouped or kwargs.get("position_bias") is not None:
        from transformers import AttentionInterface

        rest: dict[str, Any] = {"dropout": dropout, "scaling": scaling, **kwargs}
        plain: tuple[Tensor, Tensor | None] = AttentionInterface()[PLAIN](
            module, query, key, value, attention_mask, **rest
        )
        return plain
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    return ((weights * noise(weights, dropout)) @ value).transpose(1, 2).contiguous(), None
