"""Two passes: the first, without experts, says what weight each has for each token of the second (X-LoRA: Buehler & Buehler 2024).

    tokens --> the pretrained model --> h --> head --> weights p (rows, tokens, sites, experts)
    tokens --> the model with W x + b + s sum_e p_e B_e A_e x on every site

h (rows, tokens, width): the last hidden states, of which nothing is learnt. The head is tensors that all sites share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.row_mask import TOKENS
from lorakit.adapters.shared import Shared
from lorakit.adapters.switching import DROPPED
from lorakit.backbone.pair_texts import rows_of_nothing
from lorakit.errors import RecipeError

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter

ALL, TOP, NO = "all", "top_k", "none"


class Scalings:
    """The experts' weights for the pass that goes on.

    Args:
        head: the shared tensors W_in, W_mid, W_out and their biases c, as far as its depth has them.
        settings: the options of the delta.
        sites: how many there are.
    """

    def __init__(self, head: Shared, settings: Mapping[str, Any], sites: int):
        self.head = head
        self.settings = settings
        self.sites = sites
        self.first_pass = False
        """Whether the model is asked for the states that the head reads: no expert takes part."""
        self.weights: torch.Tensor | None = None
        """(rows, tokens, 1 or sites, experts); layers that are recomputed on the way back still find it."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without the weights of any pass."""
        return {**self.__dict__, "weights": None}

    def at(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """p (..., experts) of the site with this number for its input x (..., in)."""
        assert self.weights is not None
        found = self.weights[:, :, place if self.weights.shape[2] > 1 else 0]
        return found.reshape(*x.shape[:-1], found.shape[-1])

    def computed(self, states: torch.Tensor) -> torch.Tensor:
        """p (rows, tokens, 1 or sites, experts) for the states h (rows, tokens, width).

        The head is W_out h + c at depth 1, else W_out f(... f(W_in h + c)) + c, with f: relu, then dropout.
        """
        head, settings = dict(self.head.named_parameters()), self.settings
        hidden = [(head["W_in"], head["c_in"])] if "W_in" in head else []
        hidden += zip(head["W_mid"], head["c_mid"], strict=True) if "W_mid" in head else []
        with torch.autocast(states.device.type, enabled=False):
            h = states.to(head["W_out"].dtype)
            for weight, bias in hidden:
                h = F.dropout(F.relu(F.linear(h, weight, bias)), settings["dropout"], self.head.training)
            logits = F.linear(h, head["W_out"], head["c_out"]).unflatten(-1, (-1, settings["experts"]))
            return weights_of(logits, settings["softmax"], settings["temperature"], settings["top_k"])


def weights_of(logits: torch.Tensor, softmax: str, temperature: float, top_k: int) -> torch.Tensor:
    """The experts' weights (..., experts) from the head's logits (..., experts).

    A softmax of the logits over the temperature, among all experts or the ``top_k`` largest; without one they are the weights. What is not
    among the ``top_k`` is left out, so that of a softmax among all the rest sums to less than 1.
    """
    weights = (logits / temperature).softmax(dim=-1) if softmax == ALL else logits
    if not top_k:
        return weights
    kept = weights.topk(top_k, dim=-1)
    values = (kept.values / temperature).softmax(dim=-1) if softmax == TOP else kept.values
    return torch.zeros_like(weights).scatter(-1, kept.indices, values)


class ScalingPass:
    """Has the first pass made while an adapter whose experts are weighed so is in the model."""

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter]):
        self.model = model
        self.adapters = list(adapters)
        first = adapters[0].delta
        assert first.shared is not None
        self.held = Scalings(first.shared, first.settings, len(adapters))
        self.handle: RemovableHandle | None = None
        for place, adapter in enumerate(adapters):
            adapter.delta.__dict__["scalings"] = self.held
            adapter.delta.__dict__["place"] = place

    @property
    def width(self) -> int:
        """Of the states that the head takes."""
        head = dict(self.held.head.named_parameters())
        return head["W_in" if "W_in" in head else "W_out"].shape[1]

    @torch.no_grad()
    def check_width(self) -> None:
        """RecipeError (key ``adapter.method``) where the model's last states are not as wide as its sites say."""
        base: Any = self.model.base_model
        found: list[int] = []
        hook = base.register_forward_hook(lambda module, given, output: found.append(output[0].shape[-1]))
        training, ids = self.model.training, rows_of_nothing(self.model, 2, TOKENS, next(base.parameters()).device)
        try:
            self.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        finally:
            self.model.train(training)
            hook.remove()
        if found[0] != self.width:
            what = f"the model's last states are {found[0]} wide, and its layers' are {self.width}"
            raise RecipeError(what, key="adapter.method", valid="lora_moe with adapter.experts, on this model")

    def wire(self) -> None:
        """Watch the model where an adapter is not dropped, else leave no trace on it."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
        if any(adapter.state != DROPPED for adapter in self.adapters):
            base: Any = self.model.base_model
            self.handle = base.register_forward_pre_hook(partial(weigh, self.held), with_kwargs=True)


def weigh(held: Scalings, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A pre-hook (with kwargs): the first pass, and the head on what it gives."""
    if held.first_pass:
        return
    held.first_pass = True
    try:
        with torch.no_grad():
            states = base(*args, **kwargs)[0]
    finally:
        held.first_pass = False
    held.weights = held.computed(states)
