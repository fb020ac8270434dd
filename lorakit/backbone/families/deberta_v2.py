"""DeBERTa v2 and v3: BERT's sums around disentangled attention with three projections."""

from __future__ import annotations

from typing import Any

from lorakit.backbone.families import Family, Norms, families
from lorakit.backbone.families.bert import FEED_FORWARD
from lorakit.backbone.families.bert import norms as bert_norms

ROLES = {
    "attention.self.query_proj": "q",
    "attention.self.key_proj": "k",
    "attention.self.value_proj": "v",
    **FEED_FORWARD,
}


def norms(config: Any) -> Norms | str:
    """BERT's norms; none where a convolution stands between two layers (the v2 xlarge models)."""
    if getattr(config, "conv_kernel_size", 0) > 0:
        return "a convolution stands between its first and second layer"
    return bert_norms(config)


families.register(Family("deberta_v2", ("deberta-v2",), "encoder.layer", ROLES, norms))
