"""HiddenKey: dropout of attention keys and FFN hidden units, and agreement between two passes (Wang et al. 2024, arXiv 2403.00812).

    DropKey    whole columns of the attention logits are -inf: each key is hidden, with probability `keys`, from all queries and heads
    HiddenCut  each unit of the FFN's hidden layer (the input of role `down`) is 0 with probability `hidden`, the rest / (1 - hidden)
    loss     = [CE1 + CE2 + beta (KL(p1 || p2) + KL(p2 || p1)) / 2] / 2        1 and 2: two passes with their own draws

Half of the paper's loss, so that its size, and what clipping does, stay those of one pass; beta means what it means there. The
two passes are one pass over the batch taken twice: a step costs about double, except with beta = 0, which is one pass without the KL.
For a number as target, p is a normal distribution of variance 1 around the prediction, so each KL is (y1 - y2)^2 / 2. Of several
labels a row, each has its own p = sigmoid(z), and the KL is their mean, as the loss is.
Each layer and row draws its own keys, in the second half of the layers of a causal model and in all layers of others, as the paper
advises. A query that would lose every key it can see keeps them all. Draws come from torch's generator, as all dropout.
No parameters; evaluation, scoring and merging are untouched. Options: keys, hidden, beta.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: on small data sets, where a LoRA overfits; the paper adapts k and v, and tries rates of 0.01 to 0.2, beta 0.01 to 10.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.tasks.batching import Batch, SummedLoss
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, updates

MASK = "attention_mask"


class HiddenKey(Update):
    """layers: those whose keys are hidden; sites: the projections that read the FFN's hidden layer; active: whether a training step's
    passes are being made; logits: the model's last output there."""

    name = "hidden_key"
    summary = "column-wise DropKey on attention, HiddenCut on the FFN, KL between two passes"
    source = "Wang et al. 2024, LoRA Meets Dropout under a Unified Framework, arXiv 2403.00812"
    sees_tokens = True
    options: ClassVar = {
        "keys": Option(0.1, "probability that a key is hidden", low=0, high=0.99),
        "hidden": Option(0.1, "probability that a hidden unit of the FFN is zero", low=0, high=0.99),
        "beta": Option(1.0, "weight of the KL; 0: one pass, and none", low=0),
    }

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        anatomy, model = context.adapted.backbone.anatomy, context.adapted.model
        layers = [layer for _, layer in anatomy.layers]
        self.causal = any(getattr(part, "is_causal", False) for part in model.modules())
        self.layers = layers[len(layers) // 2 :] if self.causal else layers
        self.sites = [model.get_submodule(site.name) for site in anatomy.sites if site.role == "down"]
        if self.settings["hidden"] and not self.sites:
            raise RecipeError(
                "update 'hidden_key' does not know where this model's FFNs are", key="adapter.updates", hint="hidden: 0"
            )
        if self.settings["keys"] and not all(
            MASK in inspect.signature(layer.forward).parameters for layer in self.layers
        ):
            raise RecipeError(
                "update 'hidden_key' cannot mask this model's attention", key="adapter.updates", hint="keys: 0"
            )
        if self.settings["keys"] and context.recipe.model.attention == "flash_attention_2":
            raise RecipeError(
                "update 'hidden_key' needs an attention that takes a mask", key="model.attention", valid="sdpa or eager"
            )
        self.active = False
        self.logits = torch.empty(0)
        self.handles: list[RemovableHandle] = []

    def on_train_begin(self, state: TrainState) -> None:
        """Watch layers, FFNs and the output."""
        model: Any = self.context.adapted.model
        hooks = [model.register_forward_hook(self.keep_logits)]
        if self.settings["keys"]:
            sdpa = model.config._attn_implementation == "sdpa"
            hide = partial(self.hide_keys, sdpa=sdpa)
            hooks += [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in self.layers]
        if self.settings["hidden"]:
            hooks += [module.register_forward_pre_hook(self.cut_hidden) for module in self.sites]
        self.handles = hooks

    def on_train_end(self, state: TrainState) -> None:
        """Leave the model as it was."""
        for handle in self.handles:
            handle.remove()

    def after_backward(self, state: TrainState) -> None:
        """Whatever else is computed is untouched; the backward pass, which may repeat layers, is over."""
        self.active, self.logits = False, torch.empty(0)

    def after_trial_step(self) -> None:
        """The same."""
        self.active, self.logits = False, torch.empty(0)

    @classmethod
    def times_a_row(cls, settings: Mapping[str, Any]) -> int:
        """Twice, where two passes are compared."""
        return 2 if settings["beta"] else 1

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss of two passes, and how far they are apart."""

        def paired(model: nn.Module, batch: Batch) -> torch.Tensor:
            self.active = True
            if self.settings["beta"] == 0:
                return loss(model, batch)
            both = loss(model, {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()})
            return (both + self.settings["beta"] * self.divergence(*self.logits.chunk(2))) / 2

        return paired

    def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """(KL(p1 || p2) + KL(p2 || p1)) / 2, summed over rows."""
        if self.context.objective.regression:
            return F.mse_loss(first, second, reduction="sum") / 2
        if self.context.objective.multi_label:
            return ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(dim=-1).sum() / 2
        one, two = first.log_softmax(-1), second.log_softmax(-1)
        return ((one.exp() - two.exp()) * (one - two)).sum() / 2

    def keep_logits(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hold the model's output in float32."""
        if self.active:
            self.logits = output.logits.float()

    def cut_hidden(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """HiddenCut on a projection's input."""
        return (F.dropout(args[0], self.settings["hidden"]), *args[1:]) if self.active else None

    def hide_keys(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, sdpa: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """DropKey on the mask that a layer is given."""
        if not self.active:
            return None
        names = list(inspect.signature(layer.forward).parameters)
        given = dict(zip(names, args, strict=False)) | kwargs
        hidden = given["hidden_states"] if "hidden_states" in given else args[0]
        mask = given.get(MASK)
        allowed = visible(mask, hidden, causal=self.causal)
        keep = torch.rand(len(hidden), 1, 1, allowed.shape[-1], device=hidden.device) >= self.settings["keys"]
        new = like(hide(allowed, keep), mask, hidden, sdpa=sdpa)
        place = names.index(MASK)
        if place < len(args):
            return (*args[:place], new, *args[place + 1 :]), kwargs
        return args, kwargs | {MASK: new}


def visible(mask: torch.Tensor | None, hidden: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Which keys each query sees, (rows or 1, heads or 1, queries or 1, keys), from the mask that a layer is given: none, where all do."""
    if mask is None:
        length = hidden.shape[1]
        everything = torch.ones(length, length, dtype=torch.bool, device=hidden.device)
        return (everything.tril() if causal else everything)[None, None]
    if mask.dtype.is_floating_point:
        return mask > torch.finfo(mask.dtype).min / 2
    return mask.bool()


def hide(allowed: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """``allowed`` without the columns that are not in ``keep``; a query that would be left without a key keeps its own."""
    left = allowed & keep
    return left | (allowed & ~left.any(dim=-1, keepdim=True))


def like(allowed: torch.Tensor, mask: torch.Tensor | None, hidden: torch.Tensor, *, sdpa: bool) -> torch.Tensor:
    """``allowed`` in the form of the mask that was there: added to the logits where that one was, else true or false."""
    if mask is not None and not mask.dtype.is_floating_point:
        return allowed.to(mask.dtype)
    if mask is None and sdpa:
        return allowed
    dtype = hidden.dtype if mask is None else mask.dtype
    return torch.zeros(allowed.shape, dtype=dtype, device=hidden.device).masked_fill(~allowed, torch.finfo(dtype).min)


updates.register(HiddenKey)
