"""How many tokens a model has positions for. Those with relative, rotary or no positions take any number."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lorakit.backbone.guessing import TOWERS

NAMES = (
    "position_embeddings",
    "positions_embed",
    "embed_positions",
    "position_embedding",
    "char_position_embeddings",
    "wpe",
    "pos_encoding",
)
"""What transformers calls a table with a row a position: a module, or a tensor without one."""


def position_limit(model: Any) -> int | None:
    """The most tokens that a text may have; None where its positions set no limit.

    The rows of the smallest table of positions, less those before the first token: RoBERTa's kind starts behind the pad token's
    row, BART's has an ``offset``. A list of ``position_ids`` beside the table may be shorter. What computes such a table, instead
    of keeping one, names its length in the configuration (MPT's ``max_seq_len``, Reformer's axes).
    """
    limits = [limit for path, module in model.named_modules() for limit in table_limits(path, module)]
    config = model.config.get_text_config()
    limits += [config.max_seq_len] if config.model_type == "mpt" else []
    limits += [math.prod(config.axial_pos_shape)] if getattr(config, "axial_pos_embds", False) else []
    return min(limits, default=None)


def table_limits(path: str, module: nn.Module) -> list[int]:
    """What the tables that belong directly to this module allow."""
    if any(tower in path for tower in TOWERS):
        return []
    found = []
    for name, child in module.named_children():
        weight = getattr(child, "weight", None)
        if name in NAMES and isinstance(weight, torch.Tensor):
            padding = getattr(child, "padding_idx", None)
            before = getattr(child, "offset", 0) or (0 if padding is None else padding + 1)
            found.append(len(weight) - before)
    ids = getattr(module, "position_ids", None)
    if found and isinstance(ids, torch.Tensor):
        found.append(ids.shape[-1])
    found += [len(table) for name, table in module.named_buffers(recurse=False) if name in NAMES and table.dim() == 2]
    return found
