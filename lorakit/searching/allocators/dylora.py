"""DyLoRA: one training for every rank up to R (Valipour et al. 2023, arXiv 2210.07558).

    each step   b ~ U{1..R}, one number for all sites       dW = s_b B[:, :b] A[:b]       B: out x R, A: R x in, s_b = alpha / b
    evaluation  all R units, with the scale of rank R       afterwards  `lorakit eval TASK --run RUN --rank K` for any K

The first units learn to serve alone, each further one to improve on those before it, so that the result can be cut to any rank without
training again. `frozen: earlier` gives a step's gradient to its b-th unit alone: what is below b is computed with, and not taught anew.
That is what the authors' released trainer always does (rank 8, alpha 16, lr 4e-4, 30 epochs); the paper's algorithm is `none`.
A site whose rank is below b (a shortcut) takes part whole. The scale is that of the recipe's rule at rank b (`adapter.scale`).
Same for every process: b comes from the search's stream. Ticks decide nothing; they record the ranks.
Works with every adapter that has rank units. What belongs to no unit (a magnitude, what sites share) trains in every step.
Differs from the authors' code in: `frozen`, which is none unless asked for; shortcuts; the budget. A budget below the whole leaves only
the units of the largest rank that it holds on all sites: b is drawn up to that rank, and the others never train.
When to use it: where the rank is to be chosen after the training, or several are needed: it costs one training, each step less than
one at rank R. A single rank trained alone is usually a little better at that rank.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.options import Option
from lorakit.adapters.rank_units import along, axes_of
from lorakit.searching.allocator import Allocator, Decision, SearchContext, allocators
from lorakit.searching.unit_allocator import divisible_adapters, rank_for_all


class DyLoRA(Allocator):
    """Cuts every site to a random rank for the length of a step."""

    name = "dylora"
    title = "DyLoRA"
    sees_tokens = False
    summary = "every step trains the first b rank units, b drawn anew: the result serves every rank"
    source = "Valipour et al. 2023, arXiv 2210.07558"
    options: ClassVar = {
        "frozen": Option(
            "none",
            "units that a step computes with and does not teach: none, or those before its last",
            choices=("none", "earlier"),
        )
    }
    by = "unit"
    default_share = 1.0

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.adapters = divisible_adapters(context)
        self.rank = rank_for_all(context)
        self.sampled = self.rank

    def decide(self, step: int) -> Decision:
        """Nothing: all ranks train."""
        self.at(self.rank)
        return Decision(self.context.search.method)

    def before_forward(self, step: int) -> None:
        """Draw b and cut every site to it."""
        self.sampled = int(torch.randint(1, self.rank + 1, (), generator=self.context.generator))
        self.at(self.sampled)

    def after_backward(self, step: int) -> None:
        """Where frozen: forget the gradients of all units but the last."""
        if self.settings["frozen"] == "earlier":
            for adapter in self.adapters.values():
                teach_only(adapter, min(self.sampled, adapter.rank) - 1)

    def after_step(self, step: int) -> None:
        """All units again, for what evaluates or saves."""
        self.at(self.rank)

    def at(self, rank: int) -> None:
        """The first ``rank`` units of every site, with that rank's scale."""
        for adapter in self.adapters.values():
            width = min(rank, adapter.rank)
            adapter.units.cut(width)
            adapter.scale = adapter.spec.scale_at(width)

    def finish(self) -> None:
        """Units that the budget does not hold are closed."""
        for adapter in self.adapters.values():
            adapter.units.keep(adapter.units.mask)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.at(self.rank)


def teach_only(adapter: Adapter, unit: int) -> None:
    """Zero the gradients of all rank units but ``unit``. In a core, a unit is a row and a column."""
    for name, tensor, _ in adapter.trained_tensors():
        if tensor.grad is not None and (axes := axes_of(adapter.delta, name)):
            mine = torch.arange(adapter.rank, device=tensor.device) == unit
            others = ~along(mine, axes[0], tensor.ndim)
            for axis in axes[1:]:
                others = others & ~along(mine, axis, tensor.ndim)
            tensor.grad.masked_fill_(others, 0.0)


allocators.register(DyLoRA)
