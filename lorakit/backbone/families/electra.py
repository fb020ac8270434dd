"""ELECTRA: BERT's layer behind embeddings of another width, with a two-layer head."""

from __future__ import annotations

from lorakit.backbone.families import Family, families
from lorakit.backbone.families.bert import AFTER_ATTENTION, ROLES, norms

families.register(Family("electra", ("electra",), "encoder.layer", ROLES, norms, AFTER_ATTENTION))
