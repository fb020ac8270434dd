"""O-LoRA: a new task learns in directions that the earlier tasks left (Wang et al. 2023, arXiv 2310.14152).

    dW = s (B_1 A_1 + ... + B_t A_t)           B_t, A_t: rank r, of task t; those before it stay as they are
    loss + lambda sum |A_i A_t^T|, i < t       summed over all entries, i and sites

The tasks' factors are kept side by side, as one LoRA of the summed rank, of which the first `earlier` rank units are the earlier tasks':
nothing is approximated, and the run merges, exports and loads as any LoRA. lambda is `orthogonality`.
Differs from the authors' code in: their second term, lambda_2 times the norms of A_t and B_t, is 0 in their scripts and not there; they
generate a label's words, and here each task has a head of its own.
Set by `continual.method: o_lora` of a sequence of tasks (the README of `workflow`).
When to use it: for tasks of other labels, one after the other, where no rows of earlier tasks can be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.low_rank import LowRank
from lorakit.adapters.init import inits
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.penalty import with_penalty
from lorakit.tasks.batching import SummedLoss
from lorakit.training.held_units import KeepsFirst, factors_of, held_parameters
from lorakit.training.update import UpdateContext, needs_delta, updates

OPTIONS = "adapter.update_options"


class OLoRA(KeepsFirst):
    """factors: A and B of every site."""

    name = "o_lora"
    summary = (
        "the first rank units are those of earlier tasks and stay; the A of the others is kept orthogonal to theirs"
    )
    source = "Wang et al. 2023, O-LoRA, arXiv 2310.14152"
    fixes_entries = True
    grows_start = True
    options: ClassVar = {
        "orthogonality": Option(0.5, "lambda: weight of the sum of |A_i A_t^T|", low=0.0),
        "earlier": Option(1, "how many rank units, the first ones, are of earlier tasks", low=1),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs plain LoRAs, both of whose factors train, and no search among their units."""
        problems = needs_delta(cls.name, LowRank.name, spec)
        if not problems and not (spec.trains("A") and spec.trains("B")):
            what = f"update '{cls.name}' is about what A learns, and '{spec.trainable}' alone trains"
            problems.append(Problem(what, key="adapter.trainable", valid="all"))
        if spec.decomposition != "none":
            what = f"update '{cls.name}' keeps earlier updates as they are, and a magnitude in common would scale them"
            problems.append(Problem(what, key="adapter.decomposition", valid="none"))
        init = inits.get(spec.init)
        if init.anchors or init.needs != "nothing" or init.quantises:
            what = (
                f"update '{cls.name}' adds rank units that change nothing at first, and init '{init.name}' has others"
            )
            problems.append(
                Problem(what, key="adapter.init", valid="kaiming, gaussian or another that looks at nothing")
            )
        if recipe.search.method != "none":
            what = f"update '{cls.name}' says which rank units are whose, and a search takes them out"
            problems.append(Problem(what, key="search.method", valid="none"))
        return problems

    @classmethod
    def holds(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> int:
        """Those of earlier tasks. Raises RecipeError where no rank unit would be left to learn."""
        found, earlier = factors_of(adapted, LowRank), settings["earlier"]
        least = min((len(a) for a, _ in found), default=earlier + 1)
        if least <= earlier:
            what = f"update '{cls.name}' keeps {earlier} rank units, and a site has {least}"
            raise RecipeError(what, key=OPTIONS, valid=f"earlier: 1 to {least - 1}", hint="a higher adapter.rank")
        return held_parameters(found, earlier)

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.factors = factors_of(context.adapted, LowRank)
        self.keep_first(self.factors, self.settings["earlier"])

    def around_loss(self, loss: SummedLoss) -> SummedLoss:
        """The loss and lambda times the overlap with earlier tasks."""
        return with_penalty(loss, self.settings["orthogonality"], lambda: [self.overlap()])

    def overlap(self) -> torch.Tensor:
        """The sum of |A_i A_t^T| over all sites."""
        return torch.stack(
            [(a[: self.earlier].detach() @ a[self.earlier :].T).abs().sum() for a, _ in self.factors]
        ).sum()


updates.register(OLoRA)
