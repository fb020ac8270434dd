"""DeBERTa: BERT's sums around disentangled attention, whose query, key and value are one matrix, ``in_proj``."""

from __future__ import annotations

from lorakit.backbone.families import Family, families
from lorakit.backbone.families.bert import FEED_FORWARD, norms

ROLES = {"attention.self.in_proj": "qkv", **FEED_FORWARD}

families.register(Family("deberta", ("deberta",), "encoder.layer", ROLES, norms))
