"""GPT-NeoX and Pythia: query, key and value are one matrix; attention and MLP usually run side by side.

With ``use_parallel_residual`` a layer is ``h + Attn(norm(h)) + MLP(norm'(h))``: there is no sum between attention and MLP.
"""

from __future__ import annotations

from typing import Any

from lorakit.backbone.families import Family, Norms, families

ROLES = {
    "attention.query_key_value": "qkv",
    "attention.dense": "o",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}


def norms(config: Any) -> Norms | str:
    """The norm before the MLP; none in the parallel form."""
    if config.use_parallel_residual:
        return "its attention and MLP share one residual sum (use_parallel_residual)"
    return Norms("post_attention_layernorm")


families.register(Family("gpt_neox", ("gpt_neox",), "layers", ROLES, norms))
