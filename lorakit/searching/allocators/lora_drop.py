"""LoRA-drop: after a short training, the sites whose update is largest stay (Zhou et al. 2024, arXiv 2402.07721).

    g_l = sum over `search.batches` training batches, without padding, of ||s dW_l x||^2        x: the input of site l

Every site trains until the first tick after step 0 (search.warmup, or else search.every, says when that is); there the sites with the
largest g stay, as many as the budget holds, and the others leave the function for good. Measured without a trace.
`restart: all` puts what stays, and the head, back to its start, with Adam's moments at zero, as the paper trains anew after its choice;
the learning rate goes on where it is.
Differs from the paper: it keeps sites until their share of sum g reaches 0.9 and lets all the others have one A and B in common; here the
budget decides, and the others have none. Where the update is no plain sum (a magnitude, a product with W), s dW x is the whole change
of the site's output.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: as a cheap choice of sites, by what training did with them rather than by what their gradients promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.adapters.options import Option
from lorakit.adapters.switching import adapted_forward
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Allocator, Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.input_statistics import modules_of, seen_inputs
from lorakit.searching.scoring import without_trace
from lorakit.searching.selection import select_sites
from lorakit.searching.unit_allocator import check_later_tick


class LoRADrop(Allocator):
    """Chooses sites once, by the size of what they add."""

    name = "lora_drop"
    title = "LoRA-drop"
    summary = "after a short training the sites that add most stay"
    source = "Zhou et al. 2024, arXiv 2402.07721"
    options: ClassVar = {
        "restart": Option(
            "none", "what begins anew after the choice: none, or all that trains", choices=("none", "all")
        )
    }
    default_share = 0.5

    def __init__(self, context: SearchContext):
        super().__init__(context)
        check_later_tick(context)
        for name, adapter in context.adapted.adapters.items():
            if adapter.delta.replaces_parameters or not (adapter.on_weight or adapter.site.is_shortcut):
                raise RecipeError(
                    f"allocator 'lora_drop' measures what a site adds to its layer, and {name} is a {adapter.site.kind}",
                    key="search.method",
                    valid="lora_drop with updates of projections, and shortcuts",
                )
        self.decided = False
        self.starts: dict[str, torch.Tensor] = {}
        if self.settings["restart"] == "all":
            self.starts = {t.name: t.parameter.detach().clone() for t in context.adapted.trained()}

    @classmethod
    def moves_moments(cls, search: SearchSection) -> bool:
        """Where everything begins anew after the choice."""
        return bool(cls.settings_from(search.options)["restart"] == "all")

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """One look at what sites add."""
        return cost_model.forward()

    def allowed(self, step: int) -> int:
        """Everything until the choice is made."""
        adapted = self.context.adapted
        return self.context.budget.parameters if self.decided else adapted.adapter_parameters(adapted.adapters)

    def decide(self, step: int) -> Decision:
        """At the first tick after step 0: measure, choose, drop."""
        context = self.context
        if step == 0 or self.decided:
            return Decision(context.search.method)
        scores = self.measure()
        selection = select_sites(
            scores, context.adapted.sites, context.costs, context.budget, context.search, context.generator
        )
        context.adapted.switch(selection.on, off=context.search.off)
        self.decided = True
        self.restart()
        return Decision(context.search.method, scores, selection.cut, selection.margin)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Site -> g."""
        context = self.context
        adapted = context.adapted
        seed = context.seed()
        batches = context.batches()
        sums = dict.fromkeys(adapted.adapters, 0.0)

        def see(name: str, x: torch.Tensor) -> None:
            sums[name] += float(added_by(adapted.adapters[name], x).double().square().sum())

        with without_trace(adapted, train_mode=False, seed=seed):
            for batch in batches:
                with seen_inputs(adapted.model, modules_of(adapted), see):
                    context.logits(adapted.model, batch)
        return sums

    @torch.no_grad()
    def restart(self) -> None:
        """Everything that trains, back to its start."""
        for tensor in self.context.adapted.trained():
            if tensor.name in self.starts:
                tensor.parameter.copy_(self.starts[tensor.name])
                for moment in self.context.moments(tensor.parameter):
                    moment.zero_()
        self.starts = {}

    def state_dict(self) -> dict[str, Any]:
        """Whether the choice is made, and the starts until then."""
        return super().state_dict() | {"decided": self.decided, "starts": pack_all(self.starts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.decided = state["decided"]
        self.starts = unpack_all(state["starts"], next(self.context.adapted.model.parameters()).device)


def added_by(adapter: Adapter, x: torch.Tensor) -> torch.Tensor:
    """s dW x for x (tokens x in): what the site adds to its layer's output."""
    if adapter.delta.additive and adapter.spec.decomposition == "none":
        return adapter.delta(x.to(adapter.delta_dtype()), adapter.scale)
    x = x.to(adapter.base_dtype)
    return adapted_forward(adapter)(x) - adapter.frozen_forward(x)


allocators.register(LoRADrop)
