"""Load balance: a mixture's tokens are spread over its experts (Fedus et al. 2022, Switch Transformers, JMLR 23, section 2.2).

    loss + weight * mean over sites of E sum_e f_e P_e        f_e: the share of tokens whose router prefers expert e, or of the places
                                                              that top_k gives; P_e: the mean of the router's softmax at e; E experts

It is 1 where all experts are preferred equally often, and up to E where one is by all. f has no gradient. Text alone counts, not
padding, and what a pass through the model computes: parts of a batch that are passed one by one are balanced one by one. Evaluation is
not concerned: a row's answer never depends on others.
Not checked against the authors' code, which was not read: follows section 2.2 of the paper.
When to use it: with a mixture of which some experts get few tokens, and with top_k at all, which starves them.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.delta import deltas
from lorakit.adapters.mixture import Mixture
from lorakit.adapters.options import Option
from lorakit.adapters.row_mask import RowMask
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import ON
from lorakit.errors import Problem
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Batch, SummedLoss
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, updates

ROUTER = "router"
"""The role of what weighs the experts."""


class LoadBalance(Update):
    """heard: of every router that trains, in this pass, its logits, how many experts a token gets, and which tokens are text."""

    name = "load_balance"
    summary = "a term in the loss spreads tokens over the experts of a mixture"
    source = "Fedus et al. 2022, Switch Transformers, section 2.2"
    options: ClassVar = {"weight": Option(0.01, "weight of the term in the loss", low=0.0)}

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs experts that tokens choose by a router that trains."""
        kinds = [name for name, kind in deltas.items() if issubclass(kind, Mixture)]
        if spec.delta not in kinds:
            what = (
                f"update '{cls.name}' spreads tokens over the experts of a mixture, and delta '{spec.delta}' has none"
            )
            return [Problem(what, key="adapter.updates", valid=f"[], or a delta of {', '.join(kinds)}")]
        if not spec.trains(ROUTER):
            what = f"update '{cls.name}' acts on routers, and with trainable '{spec.trainable}' none trains"
            return [Problem(what, key="adapter.trainable", valid=f"all, or roles with {ROUTER} among them")]
        return []

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.text = RowMask()
        self.heard: list[tuple[torch.Tensor, int, torch.Tensor | None]] = []
        self.handle: RemovableHandle | None = None

    def on_train_begin(self, state: TrainState) -> None:
        """Know padding from text."""
        self.handle = self.text.watch(self.context.adapted.model)

    def on_train_end(self, state: TrainState) -> None:
        """Leave the model as it was."""
        if self.handle is not None:
            self.handle.remove()

    def mixtures(self) -> list[Mixture]:
        """Those whose routers train now."""
        found = (adapter.delta for adapter in self.context.adapted.adapters.values() if adapter.state == ON)
        return [delta for delta in found if isinstance(delta, Mixture)]

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and, for each of the batch's rows, the term."""
        weight: float = self.settings["weight"]

        def balanced(model: nn.Module, batch: Batch) -> torch.Tensor:
            mixtures, self.heard = self.mixtures(), []
            for delta in mixtures:
                delta.listener = partial(self.hear, delta.settings["top_k"])
            try:
                summed = loss(model, batch)
            finally:
                for delta in mixtures:
                    delta.listener = None
            terms, self.heard = [imbalance(*each) for each in self.heard], []
            return summed + len(batch["labels"]) * weight * torch.stack(terms).mean() if terms else summed

        return balanced if weight else loss

    def hear(self, top_k: int, logits: torch.Tensor) -> None:
        """Keep a router's logits as they are: what is computed from them here would be computed again where layers recompute."""
        self.heard.append((logits, top_k, self.text.mask))


def imbalance(logits: torch.Tensor, top_k: int, text: torch.Tensor | None = None) -> torch.Tensor:
    """``E sum_e f_e P_e`` for logits (rows, tokens, E) or (rows tokens, E), over the tokens that are ``text`` (rows, tokens), or all.

    Where only the first tokens of a row are computed, it is over these.
    """
    experts = logits.shape[-1]
    if text is None:
        text = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    elif logits.ndim > 2:
        text = text[:, : logits.shape[1]]
    chances = logits.reshape(-1, experts).softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    share = text.flatten().to(chances.dtype)
    share = share / share.sum()
    places = chances.detach().topk(top_k or 1, dim=-1).indices
    preferred = F.one_hot(places, experts).sum(dim=1).to(chances.dtype) / places.shape[-1]
    return experts * ((share @ preferred) * (share @ chances)).sum()


updates.register(LoadBalance)
