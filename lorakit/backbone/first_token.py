"""What a head that reads the first token alone never sees: the last layer's other tokens, behind their attention.

BERT, RoBERTa and ELECTRA classify by the first token of the last layer. Its values come from all tokens through the attention; what
the layer goes on to compute for the others (output projection, MLP, norms: three quarters of a layer) reaches no logit and gets no
gradient. Without it logits and gradients are the same to rounding. (Dropout draws fewer numbers.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.families import families


def compute_first_token_only(model: nn.Module, anatomy: Anatomy) -> RemovableHandle | None:
    """In training mode, compute nothing for tokens that the head does not read; None where nothing can be left out.

    Nothing is left out any more once the handle is removed. It can be for families with a ``first_token_from`` whose code is
    transformers' own. The base model's last hidden states then are (rows, 1, width).
    """
    record = families.get(anatomy.family) if anatomy.family in families else None
    if record is None or not record.first_token_from or not type(model).__module__.startswith("transformers."):
        return None
    _, last = anatomy.layers[-1]
    return last.get_submodule(record.first_token_from).register_forward_pre_hook(first_token)


def first_token(module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    """A pre-hook: of inputs (rows, tokens, width) the first token alone, in training."""
    return tuple(x[:, :1] for x in args) if module.training else args
