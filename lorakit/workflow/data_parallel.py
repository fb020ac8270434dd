"""What data-parallel processes tell each other in a step: gradients, and no more than they have to.

Which parameters have no gradient is looked for in every step only where that can be: where a search switches sites, an update leaves
some out, or a part of the model is not reached. Buffers stay as they are loaded, quantised weights among them, and are not sent.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.backbone.pair_texts import rows_of_nothing
from lorakit.recipe.schema import Recipe
from lorakit.searching.scoring import without_trace
from lorakit.training.update import chosen_updates

TOKENS = 4
CHANGES_BY_ITSELF = ("layerdrop", "encoder_layerdrop", "num_experts", "num_local_experts", "n_routed_experts")
"""What a configuration calls layers that are left out now and then, and parts that only some tokens go through."""


def tell_no_more_than_needed(accelerator: Accelerator, recipe: Recipe, adapted: AdaptedModel) -> None:
    """Set up the processes' exchange for this training; before the model is prepared."""
    handler = accelerator.ddp_handler
    if accelerator.num_processes == 1 or handler is None:
        return
    handler.find_unused_parameters = may_be_unused(recipe, adapted)
    handler.broadcast_buffers = any(isinstance(module, _BatchNorm) for module in adapted.model.modules())


def prepared(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The model as the processes train it.

    torch's warning of ``broadcast_buffers`` is held back: the argument that it names instead sends buffers once all the same.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        found: nn.Module = accelerator.prepare_model(model)
    return found


def may_be_unused(recipe: Recipe, adapted: AdaptedModel) -> bool:
    """Whether a step can leave a trained parameter without a gradient. Leaves no trace."""
    config: Any = adapted.model.config
    changing = recipe.search.method != "none" or chosen_updates(recipe) or recipe.training.freeze_below
    changing = changing or any(getattr(config, name, None) for name in CHANGES_BY_ITSELF)
    return bool(changing) or not all_reached(adapted)


def all_reached(adapted: AdaptedModel) -> bool:
    """Whether the outputs depend on every parameter that trains, by a pass over one short row."""
    model = adapted.model
    trained = [tensor.parameter for tensor in adapted.trained() if tensor.parameter.requires_grad]
    ids = rows_of_nothing(model, 1, TOKENS, trained[0].device)
    with without_trace(adapted, train_mode=True, seed=0, all_on=False):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found = torch.autograd.grad(logits.float().sum(), trained, allow_unused=True)
    return all(gradient is not None for gradient in found)
