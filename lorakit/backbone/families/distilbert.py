"""DistilBERT: post-norm encoder layers, half of BERT's."""

from __future__ import annotations

from lorakit.backbone.families import Family, Norms, families

ROLES = {
    "attention.q_lin": "q",
    "attention.k_lin": "k",
    "attention.v_lin": "v",
    "attention.out_lin": "o",
    "ffn.lin1": "up",
    "ffn.lin2": "down",
}


def norms(config: object) -> Norms:
    """The norm after the attention sum, and the one after the MLP sum."""
    return Norms("sa_layer_norm", "output_layer_norm")


families.register(
    Family(
        "distilbert",
        ("distilbert",),
        "transformer.layer",
        ROLES,
        norms,
        mlp_width="hidden_dim",
        activation="activation",
    ),
)
