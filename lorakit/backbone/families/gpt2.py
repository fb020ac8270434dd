"""GPT-2: pre-norm decoder layers made of Conv1D, whose weight is (in, out); query, key and value are one matrix, ``c_attn``."""

from __future__ import annotations

from lorakit.backbone.families import Family, Norms, families

ROLES = {"attn.c_attn": "qkv", "attn.c_proj": "o", "mlp.c_fc": "up", "mlp.c_proj": "down"}


def norms(config: object) -> Norms:
    """The norm before the MLP."""
    return Norms("ln_2")


families.register(
    Family("gpt2", ("gpt2",), "h", ROLES, norms, mlp_width="n_inner", activation="activation_function"),
)
