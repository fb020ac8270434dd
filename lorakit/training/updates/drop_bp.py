"""DropBP: the backward pass of residual branches is dropped at random (Woo et al. 2024, arXiv 2402.17812).

    h' = h + f(h)        forward as ever;        with probability rate, for one step:  dh'/dh = I, f gets no gradient

In a step in which fewer than the rate's share of all branches were drawn, others are dropped at random until that many are, as in the
authors' code: more is dropped on average than the rate says.
Branches are the attention and the MLP of every layer; each is cut at its last projection, roles `o` and `down`, and drawn anew for every
step, the same on all processes. What is adapted in a dropped branch, that projection included, is not trained in that step: no gradient,
no weight decay, no moments. Gradients are not scaled up for it. The backward pass then skips the branch, so it gets cheaper; the forward
pass costs what it did. Evaluation and scoring are untouched. It goes with every method and takes no parameters. Option: rate.
Differs from the authors' code in: every branch has the same rate, from the first step on; theirs has rates by each layer's sensitivity,
under a FLOPs budget, after about a tenth of the training.
When to use it: for long trainings of deep models where the backward pass counts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.options import Option
from lorakit.errors import RecipeError
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, updates

BRANCH_ENDS = ("o", "down")


class DropBP(Update):
    """branches: the projections that residual branches end in; dropped: those whose branch gets no gradient in this step."""

    name = "drop_bp"
    summary = "residual branches get no gradient, at random, drawn for every step; forward unchanged"
    source = "Woo et al. 2024, DropBP, arXiv 2402.17812"
    sees_tokens = True
    options: ClassVar = {"rate": Option(0.5, "probability that a branch gets no gradient", low=0, high=1)}

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        sites = context.adapted.backbone.anatomy.sites
        self.branches = [site.name for site in sites if site.role in BRANCH_ENDS]
        if not self.branches:
            raise RecipeError(
                "update 'drop_bp' needs to know where residual branches end (roles o and down), and this model has none",
                key="adapter.updates",
            )
        self.dropped: set[str] = set()
        self.handles: list[RemovableHandle] = []

    def on_train_begin(self, state: TrainState) -> None:
        """Watch the branches' outputs."""
        model = self.context.adapted.model
        self.handles = [
            model.get_submodule(name).register_forward_hook(partial(self.cut, name)) for name in self.branches
        ]

    def on_train_end(self, state: TrainState) -> None:
        """Leave the model as it was."""
        for handle in self.handles:
            handle.remove()

    def before_forward(self, state: TrainState) -> None:
        """Draw this step's branches: those whose number is below the rate, and at least the rate's share, of the lowest numbers."""
        rate = self.settings["rate"]
        numbers = torch.rand(len(self.branches), generator=self.context.generator).tolist()
        drawn = sorted(zip(numbers, self.branches, strict=True))
        number = max(sum(number < rate for number in numbers), math.ceil(round(rate * len(drawn), 9)))
        self.dropped = {name for _, name in drawn[:number]}

    def before_optimizer_step(self, state: TrainState) -> None:
        """Whatever else is computed has all its gradients."""
        self.dropped = set()

    def cut(self, name: str, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """The branch's output, out of the graph where it is dropped."""
        return output.detach() if name in self.dropped else output


updates.register(DropBP)
