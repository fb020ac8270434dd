"""Two passes: the first, without experts, says what weight each has for each token of the second (X-LoRA: Buehler & Buehler 2024).

    tokens --> the pretrained model --> h --> head --> weights p (rows, tokens, sites, experts)
    tokens --> the model with W x + b + s sum_e p_e B_e A_e x on every site

h (rows, tokens, width): the last hidden states, of which nothing is learnt. The head is made of tensors that all sites share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.row_mask import TOKENS, RowMask, note
from lorakit.adapters.shared import Shared
from lorakit.adapters.switching import DROPPED
from lorakit.backbone.pair_texts import rows_of_nothing
from lorakit.errors import RecipeError

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter
    from lorakit.adapters.deltas.scaled_experts import ScaledExperts


class Scalings:
    """The experts' weights for the pass that goes on.

    Args:
        head: the shared tensors; the first one is as wide as the states.
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
        self.text = RowMask()
        """Which tokens are text."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts without the weights of any pass."""
        return {**self.__dict__, "weights": None}

    def at(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """p (..., experts) of the site with this number for its input x (..., in)."""
        assert self.weights is not None
        found = self.weights[:, :, place if self.weights.shape[2] > 1 else 0]
        return found.reshape(*x.shape[:-1], found.shape[-1])

    def computed(self, states: torch.Tensor) -> torch.Tensor:
        """p (rows, tokens, 1 or sites, experts) for the last states h (rows, tokens, width) of the first pass, as the delta says."""
        kind, head = cast("type[ScaledExperts]", self.head.of), dict(self.head.named_parameters())
        with torch.autocast(states.device.type, enabled=False):
            h = states.to(next(iter(head.values())).dtype)
            return kind.weights(head, self.settings, h, self.text.of(h), training=self.head.training)


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
        width = next(self.held.head.parameters()).shape[1]
        if found[0] != width:
            what = f"the model's last states are {found[0]} wide, and its layers' are {width}"
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
    note(held.text, base, args, kwargs)
    held.first_pass = True
    try:
        with torch.no_grad():
            states = base(*args, **kwargs)[0]
    finally:
        held.first_pass = False
    held.weights = held.computed(states)
