"""Llama, Mistral, Qwen2, Qwen3: pre-norm decoder layers with a gated MLP and, often, fewer key and value heads."""

from __future__ import annotations

from lorakit.backbone.families import Family, Norms, families

ROLES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}


def norms(config: object) -> Norms:
    """The norm before the MLP, which is named after the attention it follows."""
    return Norms("post_attention_layernorm")


families.register(
    Family("llama", ("llama", "mistral", "qwen2", "qwen3"), "layers", ROLES, norms, head_width="head_dim")
)
