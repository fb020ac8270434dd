"""AutoLoRA: the shares of a site's rank units are learnt on a second stream of rows (Zhang et al. 2024, arXiv 2403.09113).

    dW = s B diag(softmax(alpha)) A        A: rank x in, B: out x rank, alpha: rank: `adapter.method=autolora`
    A, B    by the training's optimiser on its rows
    alpha   every `period` steps by Adam at `lr` on a batch of the search's own draw, at the A and B of that moment

At the last tick the units with the largest rank * share stay, over all sites together, within the budget; the others are closed, alpha
stands still, and A and B train on: `search.tail` is how much of the training that is. Until then everything trains.
The paper keeps the units with a share of at least 1 / rank (rank * share >= 1); the diary's scores are how many of a site's those are.
For a training from scratch at the ranks found, give those of the last line of timeline.jsonl as adapter.allocation.
The batches of the shares are computed without dropout unless search.mode=train.
Costs a second forward and backward pass at each `period`-th step. alpha is not counted: it is in no optimiser of the training.
Differs from the authors' code in: the gradient of alpha is of first order, where theirs differentiates through one step of A and B; the
second stream is drawn anew from all training rows, where theirs splits them 70 to 30; units compete over all sites, where theirs keeps
those of a share of at least 1 / rank, and compares alpha / sum(alpha) with it though its model computes with softmax(alpha); training
goes on, where theirs begins anew at the ranks found.
When to use it: where ranks may take time to find; a larger `lr` where trainings are short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.deltas.selection import SELECTION
from lorakit.adapters.json_tensors import pack, unpack
from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.scoring import without_trace
from lorakit.searching.selection import select_units
from lorakit.searching.unit_allocator import UnitAllocator, Units, check_later_tick

ROUNDING = 1e-5
BETAS = (0.5, 0.999)
"""Of the authors' Adam."""


class AutoLoRA(UnitAllocator):
    """Learns shares of rank units, and keeps the largest at the last tick."""

    name = "autolora"
    title = "AutoLoRA"
    summary = "shares of rank units learnt on rows of their own; the largest stay"
    source = "Zhang et al. 2024, arXiv 2403.09113"
    options: ClassVar = {
        "lr": Option(3e-4, "Adam's learning rate of the shares", low=0.0),
        "period": Option(1, "training steps between two steps of the shares", low=1),
    }
    default_share = 0.5

    def __init__(self, context: SearchContext):
        super().__init__(context)
        check_later_tick(context)
        self.alphas: dict[str, torch.Tensor] = {}
        for site, adapter in self.adapters.items():
            found = [tensor for _, tensor, role in adapter.tensors() if role == SELECTION]
            if not found:
                raise RecipeError(
                    f"allocator 'autolora' learns shares of rank units, and delta '{adapter.spec.delta}' has none",
                    key="adapter.method",
                    valid="autolora, or delta: selection",
                )
            if adapter.spec.trains(SELECTION):
                raise RecipeError("the shares would be trained by two optimisers", key="adapter.trainable", valid="A+B")
            self.alphas[site] = found[0]
        self.adam = torch.optim.Adam(list(self.alphas.values()), lr=self.settings["lr"], betas=BETAS)

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """A pass over one batch at every step of the shares."""
        one = cost_model.scoring() / len(cost_model.scored)
        return one * (ticks[-1] // cls.settings_from(search.options)["period"])

    def allowed(self, step: int) -> int:
        """Everything before the last tick."""
        return self.everything if step < self.context.ticks[-1] else self.context.budget.parameters

    def unit_scores(self) -> Units:
        """rank * share."""
        return {site: len(alpha) * alpha.detach().softmax(dim=0) for site, alpha in self.alphas.items()}

    def decide(self, step: int) -> Decision:
        """At the last tick: keep the largest."""
        scores = self.unit_scores()
        if step >= self.context.ticks[-1]:
            limit = self.allowed(step) - self.common
            self.keep(select_units(scores, self.adapters, limit, self.context.generator))
        told = {site: float((values >= 1 - ROUNDING).sum()) for site, values in scores.items()}
        return Decision(self.context.search.method, told)

    def observe(self, step: int) -> None:
        """A step of the shares, until the last tick."""
        if step > self.context.ticks[-1] or step % self.settings["period"]:
            return
        context, alphas = self.context, list(self.alphas.values())
        seed = context.seed()
        (batch,) = context.draw(1, context.generator)
        dropout = context.search.mode == "train"
        with without_trace(context.adapted, train_mode=dropout, seed=seed, all_on=False), torch.enable_grad():
            for alpha in alphas:
                alpha.requires_grad_(True)
            gradients = torch.autograd.grad(context.loss(context.adapted.model, batch), alphas, allow_unused=True)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments too."""
        held = self.adam.state_dict()["state"]
        moments = {str(i): {name: pack(torch.as_tensor(v)) for name, v in entry.items()} for i, entry in held.items()}
        return super().state_dict() | {"moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        moments = {int(i): {name: unpack(v) for name, v in entry.items()} for i, entry in state["moments"].items()}
        self.adam.load_state_dict({"state": moments, "param_groups": self.adam.state_dict()["param_groups"]})


allocators.register(AutoLoRA)
