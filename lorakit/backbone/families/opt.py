"""OPT: pre-norm decoder layers, except the 350M model, which is post-norm and projects its embeddings in and out.

Before its MLP a layer flattens (batch, length, width) to (batch * length, width); the norm before the MLP of a pre-norm
model therefore sees two dimensions.
"""

from __future__ import annotations

from typing import Any

from lorakit.backbone.families import Family, Norms, families

ROLES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "fc1": "up",
    "fc2": "down",
}


def norms(config: Any) -> Norms:
    """The same two modules serve both orders; ``do_layer_norm_before`` says which."""
    if config.do_layer_norm_before:
        return Norms("final_layer_norm")
    return Norms("self_attn_layer_norm", "final_layer_norm")


families.register(
    Family("opt", ("opt",), "decoder.layers", ROLES, norms, mlp_width="ffn_dim", activation="activation_function"),
)
