"""Load balance: a mixture's tokens are spread over its experts (Fedus et al. 2022, Switch Transformers, JMLR 23, section 2.2).

    loss + weight * mean over sites of E sum_e f_e P_e        f_e: the share of tokens whose router prefers expert e, or of the places
                                                              that top_k gives; P_e: the mean of the router's softmax at e; E experts

It is 1 where all experts are preferred equally often, and up to E where one is by all. f has no gradient, and is that of all rows of the
step before, on all processes: so a step is the same however its rows are divided, and experts are balanced over the whole batch, not
within a text. At first f is 1 / E. Every row counts once, its tokens equally, padding not at all; where a head reads the first token
alone, the last layer's rows are that. Evaluation is not concerned: a row's answer never depends on others.
Not checked against the authors' code, which was not read: follows section 2.2 of the paper.
When to use it: with a mixture of which some experts get few tokens, and with top_k, which starves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.delta import deltas
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.adapters.mixture import Mixture
from lorakit.adapters.options import Option
from lorakit.adapters.row_mask import RowMask, not_given_rows
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import ON
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.over_processes import over_processes
from lorakit.tasks.batching import IDLE, WINDOW_OF, Batch, SummedLoss
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, updates

ROUTER = "router"
"""The role of what weighs the experts."""


class LoadBalance(Update):
    """mixtures: site -> its experts; shares: site -> f (E,); seen: site -> what the rows of this step so far add up to (E,), no share yet;
    heard: site -> the router's logits each time that it was asked in this pass.
    """

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

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """Raises RecipeError for routers that are asked of something else than the tokens of rows."""
        mixtures = {
            n: adapted.model.get_submodule(n) for n, a in adapted.adapters.items() if isinstance(a.delta, Mixture)
        }
        if other := not_given_rows(adapted.model, mixtures):
            what = f"update '{cls.name}' counts every row's tokens, and {other} is not given those of one row after the other"
            hint = "adapter.targets without it, or adapter.updates=[]"
            raise RecipeError(what, key="adapter.updates", valid="[] with these targets", hint=hint)
        return []

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        found = ((name, adapter.delta) for name, adapter in context.adapted.adapters.items())
        self.mixtures = {name: delta for name, delta in found if isinstance(delta, Mixture)}
        self.shares = {name: evenly(delta) for name, delta in self.mixtures.items()}
        self.seen = {name: torch.zeros_like(share) for name, share in self.shares.items()}
        self.heard: dict[str, list[torch.Tensor]] = {}
        self.text = RowMask()
        self.handle: RemovableHandle | None = None

    def on_train_begin(self, state: TrainState) -> None:
        """Know padding from text."""
        self.handle = self.text.watch(self.context.adapted.model)

    def on_train_end(self, state: TrainState) -> None:
        """Leave the model as it was."""
        if self.handle is not None:
            self.handle.remove()

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and, for each of the batch's rows, the term."""
        weight: float = self.settings["weight"]

        def balanced(model: nn.Module, batch: Batch) -> torch.Tensor:
            states = self.context.adapted.states()
            listening = {name: delta for name, delta in self.mixtures.items() if states[name] == ON}
            for name, delta in listening.items():
                delta.listener = partial(self.hear, name)
            try:
                summed = loss(model, batch)
            finally:
                for delta in listening.values():
                    delta.listener = None
            heard, self.heard = self.heard, {}
            terms = [
                torch.stack([self.term(name, logits, batch) for logits in asked]).mean()
                for name, asked in heard.items()
            ]
            return summed + weight * torch.stack(terms).mean() if terms else summed

        return balanced if weight else loss

    def hear(self, name: str, logits: torch.Tensor) -> None:
        """Keep a router's logits as they are: what is computed from them here would be computed again where layers recompute."""
        self.heard.setdefault(name, []).append(logits)

    def term(self, name: str, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """``E sum_e f_e P_e`` of one site, summed over the batch's rows; their part of the next f is added up."""
        weights = token_weights(logits, self.text.mask, batch)
        chances = logits.reshape(-1, logits.shape[-1]).softmax(dim=-1, dtype=self.shares[name].dtype)
        if IDLE not in batch:
            self.seen[name] += weights @ preferences(chances.detach(), self.mixtures[name].settings["top_k"])
        return len(self.shares[name]) * (self.shares[name] * (weights @ chances)).sum()

    @torch.no_grad()
    def after_step(self, state: TrainState) -> None:
        """The next f, of the sites that were on."""
        pieces = [len(share) for share in self.shares.values()]
        total = over_processes(torch.cat([*self.seen.values()]))
        for name, seen in zip(self.shares, total.split(pieces), strict=True):
            self.shares[name] = torch.where(seen.sum() > 0, seen / seen.sum(), self.shares[name])
        self.after_trial_step()

    def after_trial_step(self) -> None:
        """Rows of another step are none of these."""
        for seen in self.seen.values():
            seen.zero_()

    def state_dict(self) -> dict[str, Any]:
        """f too."""
        return super().state_dict() | {"shares": pack_all(self.shares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.shares = unpack_all(state["shares"], next(iter(self.seen.values())).device)


def evenly(delta: Mixture) -> torch.Tensor:
    """f (E,) as if all experts were preferred equally often."""
    return delta.R.detach().new_full((delta.experts,), 1 / delta.experts)


def token_weights(logits: torch.Tensor, mask: torch.Tensor | None, batch: Batch) -> torch.Tensor:
    """What each token of a router's ``logits`` (lines, tokens, E), in any shape, counts, (lines tokens,): 1 for a row of ``batch``.

    mask (lines, tokens): which are text. Lines share the 1 of a row where it has several: it is in windows, or in the pass twice.
    """
    assert mask is not None
    text = mask[:, : logits.shape[:-1].numel() // len(mask)]
    weights = text / text.sum(dim=1, keepdim=True).clamp_min(1)
    lines = torch.arange(len(batch["labels"]))
    row = batch.get(WINDOW_OF, lines).to(weights.device).repeat(len(text) // len(batch.get(WINDOW_OF, lines)))
    return (weights / row.bincount()[row][:, None]).flatten()


def preferences(chances: torch.Tensor, top_k: int) -> torch.Tensor:
    """(tokens, E) 1 / k at each of a token's k most probable experts, k the ``top_k`` or 1."""
    places = chances.topk(top_k or 1, dim=-1).indices
    return F.one_hot(places, chances.shape[-1]).sum(dim=1).to(chances.dtype) / places.shape[-1]


updates.register(LoadBalance)
