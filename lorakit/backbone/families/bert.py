"""BERT: post-norm encoder layers, ``LN(h + Attn(h))`` and ``LN(y + MLP(y))``. RoBERTa and ELECTRA share its layer."""

from __future__ import annotations

from lorakit.backbone.families import Family, Norms, families

ATTENTION_NORM = "attention.output.LayerNorm"
OUTPUT_NORM = "output.LayerNorm"
AFTER_ATTENTION = "attention.output"
FEED_FORWARD = {"attention.output.dense": "o", "intermediate.dense": "up", "output.dense": "down"}
ROLES = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    **FEED_FORWARD,
}


def norms(config: object) -> Norms:
    """The norms of a BERT-shaped layer, whatever the config."""
    return Norms(ATTENTION_NORM, OUTPUT_NORM)


families.register(Family("bert", ("bert",), "encoder.layer", ROLES, norms, AFTER_ATTENTION))
