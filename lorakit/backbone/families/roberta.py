"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layer with other embeddings and a two-layer head."""

from __future__ import annotations

from lorakit.backbone.families import Family, families
from lorakit.backbone.families.bert import AFTER_ATTENTION, ROLES, norms

families.register(
    Family("roberta", ("roberta", "xlm-roberta", "camembert"), "encoder.layer", ROLES, norms, AFTER_ATTENTION),
)
