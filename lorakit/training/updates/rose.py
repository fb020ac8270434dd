"""RoseLoRA's row- and column-wise pruning (Wang et al. 2024, arXiv 2406.10777).

    I <- beta I + (1 - beta) |p * dL/dp|        every step, for each entry p of A and B
    keep the largest I within each column of B (out entries) and within each row of A (in entries); the others are 0 after the step

The share kept falls as a cubic from 1 to `keep`: 1 for the first `begin` of the run, `keep` for its last `settle`. What is 0 still gets
gradients: the step moves it before it is scored, so it may come back as long as the training lasts; what is pruned after the last step
stays so. Every rank keeps the same number, at least one, of entries of its column and row, so the product B A is sparse too.
Options: keep, beta, begin, settle. A `best` adapter from before the end may be denser than the last one.
Not checked against the authors' code, which was not reached: follows the method section of the paper. A third party's was read.
When to use it: where an update should touch few weights, as in editing knowledge; alone it does not make training cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import AdaptedModel, TrainedTensor
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.adapters.options import Option
from lorakit.adapters.rank_units import axes_of
from lorakit.errors import RecipeError
from lorakit.searching.unit_allocator import remaining
from lorakit.training.hooks import TrainState
from lorakit.training.pruning import largest, part, prunable
from lorakit.training.schedule import steps_in
from lorakit.training.update import Update, UpdateContext, updates


class Rose(Update):
    """importance: tensor name -> I; gradients: those of the step that is being made."""

    name = "rose"
    summary = "A is pruned within its rows and B within its columns, more and more of them, by a mean of |p * dL/dp|"
    source = "Wang et al. 2024, RoseLoRA, arXiv 2406.10777"
    fixes_entries = True
    options: ClassVar = {
        "keep": Option(0.05, "share kept in the end, of each column of B and row of A", low=0, high=1),
        "beta": Option(0.8, "how slowly the importance changes", low=0, high=0.9999),
        "begin": Option(0.1, "share of the steps before anything is pruned", low=0, high=1),
        "settle": Option(0.3, "share of the steps, at the end, with the final share kept", low=0, high=1),
    }

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """Raises RecipeError for tensors without ranks."""
        for tensor in prunable(adapted, cls.name):
            rank_axis(adapted, tensor)
        return []

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.tensors = prunable(context.adapted, self.name)
        self.axes = {t.name: rank_axis(context.adapted, t) for t in self.tensors}
        self.importance = {t.name: torch.zeros_like(t.parameter, requires_grad=False) for t in self.tensors}
        self.gradients: dict[str, torch.Tensor] = {}
        total = context.schedule.total_steps
        self.begin, self.end = (
            steps_in(share, total) for share in (self.settings["begin"], 1 - self.settings["settle"])
        )

    def settled(self, state: TrainState) -> bool:
        """Whether the final share is reached."""
        return state.step >= self.end

    def before_optimizer_step(self, state: TrainState) -> None:
        """Keep the gradients: they are gone when the entries are scored."""
        gradients = {t.name: t.parameter.grad for t in self.tensors}
        self.gradients = {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}

    @torch.no_grad()
    def after_step(self, state: TrainState) -> None:
        """Score, then prune."""
        share = remaining(state.step, self.begin, self.end, self.settings["keep"])
        beta = self.settings["beta"]
        for tensor in self.tensors:
            if tensor.name in self.gradients:
                sensitivity = (tensor.parameter * self.gradients[tensor.name]).abs()
                self.importance[tensor.name].mul_(beta).add_(sensitivity, alpha=1 - beta)
            if share < 1:
                tensor.parameter.mul_(self.mask(tensor, share))
        self.gradients = {}

    def mask(self, tensor: TrainedTensor, share: float) -> torch.Tensor:
        """Which entries stay: the most important ``share`` of those that belong to one rank."""
        axis = self.axes[tensor.name]
        by_rank = self.importance[tensor.name].movedim(axis, 0)
        kept = largest(by_rank.flatten(1), part(share, by_rank[0].numel()))
        return kept.view_as(by_rank).movedim(0, axis)

    def state_dict(self) -> dict[str, Any]:
        """The importance too."""
        return super().state_dict() | {"importance": pack_all(self.importance)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.importance = unpack_all(state["importance"], self.tensors[0].parameter.device)


def rank_axis(adapted: AdaptedModel, tensor: TrainedTensor) -> int:
    """The axis along which the tensor's ranks lie. Raises RecipeError where it has none."""
    adapter = adapted.adapters[tensor.site or ""]
    name = tensor.name.removeprefix(f"{tensor.site}.")
    if name not in adapter.delta.rank_axes:
        raise RecipeError(
            f"update 'rose' prunes rank by rank, and '{name}' of delta '{adapter.spec.delta}' has no ranks",
            key="adapter.updates",
            hint="a method such as lora, or update sparse_mask",
        )
    return axes_of(adapter.delta, name)[0]


updates.register(Rose)
