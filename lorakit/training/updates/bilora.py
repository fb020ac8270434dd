"""BiLoRA's two levels: singular vectors learn on one part of the training rows, singular values on the other (Qiang et al. 2024).

    B, A    the gradient on the step's rows, which are none of the values' own, of loss + orthogonality * mean |M M^T - 1|_F
    g       the gradient, at the same B and A, on a batch of the rows that are set aside, without dropout

Both are used by the training's one optimiser step. `share` of the training rows is set aside, drawn by the run's seed: no step sees them,
an epoch is that much shorter. A fitted head, and whatever looks at data before the first step, sees all rows.
Costs a second forward and backward pass a step, of a whole batch.
Of first order: the authors' values follow the gradient through one step of the vectors, ours take the vectors as they are.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
The share is the paper's 8 to 2. Its values as a softmax, or nearly binary, are not there: these are real numbers.
When to use it: with delta `diagonal`, on few rows, where the training loss falls far below that of other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.errors import Problem
from lorakit.recipe.schema import Recipe
from lorakit.searching.penalty import unlike_orthonormal, with_penalty
from lorakit.searching.scoring import without_trace
from lorakit.tasks.batching import SummedLoss
from lorakit.training.hooks import TrainState
from lorakit.training.seeds import derive_seed
from lorakit.training.update import Update, UpdateContext, needs_delta, updates

VALUES = "gate"
"""The role of what stands between B and A."""


class BiLoRA(Update):
    """values: the g of every site."""

    name = "bilora"
    summary = "singular vectors learn on one part of the training rows, singular values on the other"
    source = "Qiang et al. 2024, BiLoRA, arXiv 2403.13037"
    options: ClassVar = {
        "share": Option(0.2, "of the training rows: those that the values learn on", low=0.01, high=0.99),
        "orthogonality": Option(0.1, "weight of the term that keeps A's rows and B's columns orthonormal", low=0.0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs values that train, no search among them, and batches that are passed whole."""
        problems = needs_delta(cls.name, "diagonal", spec)
        if not problems and not spec.trains(VALUES):
            what = "update 'bilora' is about values g that learn on rows of their own, and these do not train"
            problems.append(Problem(what, key="adapter.trainable", valid="A+B+gate"))
        if recipe.search.method != "none":
            what = f"update 'bilora' gives g gradients of other rows than A and B, and search '{recipe.search.method}' weighs them alike"
            problems.append(Problem(what, key="search.method", valid="none"))
        if recipe.training.precision == "fp16":
            what = "update 'bilora' takes the values' gradient by itself, without the scaled loss that float16 needs"
            problems.append(Problem(what, key="training.precision", valid="fp32 or bf16 with it"))
        if recipe.training.micro_tokens is not None:
            what = "update 'bilora' passes whole batches of the values' rows"
            problems.append(Problem(what, key="training.micro_tokens", valid="null with it"))
        return problems

    @classmethod
    def aside(cls, settings: Mapping[str, Any]) -> float:
        """The values' rows."""
        return float(settings["share"])

    @classmethod
    def passes_a_step(cls, settings: Mapping[str, Any]) -> int:
        """One, of the values' rows."""
        return 1

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.values = [tensor.parameter for tensor in context.adapted.trained() if tensor.role == VALUES]

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and the orthogonality term."""
        adapters = self.context.adapted.adapters
        return with_penalty(loss, self.settings["orthogonality"], lambda: unlike_orthonormal(adapters.values()))

    def after_backward(self, state: TrainState) -> None:
        """Give the values the gradient on rows of their own."""
        context = self.context
        (batch,) = context.draw(1)
        seed = derive_seed(context.recipe.run.seed, self.name)
        with without_trace(context.adapted, train_mode=False, seed=seed, all_on=False), torch.enable_grad():
            gradients = torch.autograd.grad(context.objective.mean(context.adapted.model, batch), self.values)
        for parameter, gradient in zip(self.values, gradients, strict=True):
            parameter.grad = gradient


updates.register(BiLoRA)
