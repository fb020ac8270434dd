"""AM-LoRA: a LoRA a task, the earlier ones frozen, and an attention that weighs them (Liu et al. 2024, arXiv 2409.19611).

    y = W x + b + sum_e p_e h_e, e <= t         h_e = s B_e A_e x; p: a softmax over f(w_e h_e) and 0, the score of a zero LoRA
    loss + lambda sum |w|                       over the w_e of all sites

Only B_t, A_t and all w_e train; the function is delta `attended`'s. lambda is `sparsity`. The paper's: a LoRA a task, frozen
afterwards; a dense layer with a nonlinearity on each LoRA's output; softmax over the tasks and a zero LoRA; L1. Of the paper only
others' description was read. Our reading: one row w_e without a bias for each LoRA and site, the zero LoRA's score thus 0; weights
token by token; L1 of the w_e, the p_e having sum 1 whatever they are; LoRA and attention learnt together; lambda 1e-4. A new LoRA takes
a part of the weights at once, so that a task does not begin as the one before it ended.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
Set by `continual.method: am_lora` of a sequence of tasks (the README of `workflow`).
When to use it: for tasks one after the other that may make use of what earlier ones learnt, where nothing has to be merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.attended import Attended
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.penalty import with_penalty
from lorakit.tasks.batching import SummedLoss
from lorakit.training.held_units import KeepsFirst, factors_of, held_parameters
from lorakit.training.update import UpdateContext, needs_delta, updates


class AMLoRA(KeepsFirst):
    """units: the LoRAs' factors, of which the first ``earlier`` rank units stay; rows: R of every site."""

    name = "am_lora"
    summary = "LoRAs of earlier tasks stay, and an attention with an L1 penalty weighs them beside the one that trains"
    source = "Liu et al. 2024, AM-LoRA, arXiv 2409.19611"
    fixes_entries = True
    grows_start = True
    options: ClassVar = {
        "sparsity": Option(1e-4, "lambda: weight of the sum of |w|", low=0.0),
        "earlier": Option(0, "how many LoRAs, the first ones, are of earlier tasks", low=0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs its delta, of which everything trains, and no search."""
        problems = needs_delta(cls.name, Attended.name, spec)
        if not problems and not all(spec.trains(role) for role in Attended.roles.values()):
            what = f"update '{cls.name}' has a LoRA and an attention learn, and '{spec.trainable}' alone trains"
            problems.append(Problem(what, key="adapter.trainable", valid="all"))
        if recipe.search.method != "none":
            what = f"update '{cls.name}' says which LoRAs are whose, and a search takes sites out"
            problems.append(Problem(what, key="search.method", valid="none"))
        return problems

    @classmethod
    def holds(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> int:
        """The factors of earlier tasks. Raises RecipeError where no LoRA would be left to learn."""
        earlier = settings["earlier"]
        sites = [each.delta for each in adapted.adapters.values() if isinstance(each.delta, Attended)]
        if least := [len(delta.R) for delta in sites if len(delta.R) <= earlier]:
            what = f"update '{cls.name}' keeps {earlier} LoRAs, and a site has {least[0]}"
            raise RecipeError(what, key="adapter.update_options", valid=f"earlier: 0 to {least[0] - 1}")
        return sum(held_parameters([(delta.A, delta.B)], earlier * delta.rank // len(delta.R)) for delta in sites)

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        deltas = [each.delta for each in context.adapted.adapters.values() if isinstance(each.delta, Attended)]
        self.rows = [delta.R for delta in deltas]
        self.keep_first(factors_of(context.adapted, Attended), self.settings["earlier"] * deltas[0].settings["each"])

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and lambda times the sum of |w|."""
        return with_penalty(loss, self.settings["sparsity"], lambda: [self.size()])

    def size(self) -> torch.Tensor:
        """The sum of |w| over all sites."""
        return torch.stack([rows.abs().sum() for rows in self.rows]).sum()


updates.register(AMLoRA)
