"""Gemma: Llama's layer. Gemma 2 and 3 also normalise what attention and MLP add, before they add it.

There ``post_attention_layernorm`` works on the attention's output, and the norm before the MLP has its own name.
"""

from __future__ import annotations

from typing import Any

from lorakit.backbone.families import Family, Norms, families
from lorakit.backbone.families.llama import ROLES


def norms(config: Any) -> Norms:
    """The norm before the MLP."""
    return Norms("post_attention_layernorm" if config.model_type == "gemma" else "pre_feedforward_layernorm")


families.register(Family("gemma", ("gemma", "gemma2", "gemma3_text"), "layers", ROLES, norms, head_width="head_dim"))
