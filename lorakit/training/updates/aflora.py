"""AFLoRA's progressive freezing of factors (Liu et al. 2024, arXiv 2403.13269).

    every step:    g <- mean over the window's steps of |dL/dp|, for each entry p of A and B
    every window:  I <- b1 I + (1 - b1) g       U <- b2 U + (1 - b2) |g - I|       score = mean over the tensor's entries of I * U

Whole tensors are scored, each A and each B apart; after every `window` steps those with low scores are frozen as they are. How many is
said by a share, which is 1 for the first `begin` of the run, falls as a cubic, and is `final` for its last `settle`:

    cut: entries    those whose score is below the quantile 1 - share of I * U over all entries of what still trains: it
                    compounds, window by window, and few large entries put many tensors below it
    cut: tensors    the lowest, until no more than the share of all tensors trains

Freezing is for good. Sensitivity is |dL/dp|, not |p * dL/dp|. With `square: frozen` A and B of square layers never train.
With final = 0 every factor ends frozen, so something else of the adapter must train (AFLoRA's vectors); for a plain LoRA give final.
In the authors' code, which has `entries` and `frozen`, window, begin and final depend on the task, and settle is 0.7 for small ones.
It decides what trains, so it does not go with a search.
Checked against the authors' code.
When to use it: with `aflora`'s vectors, to end with few trained parameters; frozen factors cost neither gradients nor optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import HEAD, AdaptedModel, TrainedTensor
from lorakit.adapters.json_tensors import pack_all, unpack
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import freeze_for_good
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.unit_allocator import remaining
from lorakit.training.hooks import TrainState
from lorakit.training.pruning import factors
from lorakit.training.schedule import steps_in
from lorakit.training.update import Update, UpdateContext, updates

CUTS = ("entries", "tensors")


class AFLoRA(Update):
    """window, sensitivity, uncertainty: tensor name -> sum of |g| in this window, I, U; frozen: the tensors that stopped, in order."""

    name = "aflora"
    summary = "A and B tensors are frozen for good, one after the other, by sensitivity times uncertainty"
    source = "Liu et al. 2024, AFLoRA, arXiv 2403.13269"
    fixes_entries = True
    options: ClassVar = {
        "window": Option(10, "steps between decisions", low=1),
        "begin": Option(0.1, "share of the steps before anything is frozen", low=0, high=1),
        "settle": Option(0.35, "share of the steps, at the end, with the final share training", low=0, high=1),
        "final": Option(0.0, "share of the factors that train to the end", low=0, high=1),
        "b1": Option(0.85, "how slowly the sensitivity changes", low=0, high=0.9999),
        "b2": Option(0.95, "how slowly the uncertainty changes", low=0, high=0.9999),
        "cut": Option("entries", "what the share is of: entries that still train, or all tensors", choices=CUTS),
        "square": Option("frozen", "A and B of layers with as many inputs as outputs", choices=("frozen", "trained")),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It goes with no search."""
        if recipe.search.method == "none":
            return []
        return [Problem("update 'aflora' decides itself what trains", key="search.method", valid="none")]

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        found = {t.name: t for t in factors(context.adapted, self.name)}
        never = self.untrained(context.adapted, self.settings)
        self.tensors = {name: t for name, t in found.items() if name not in never}
        others = [t for t in context.adapted.trained() if t.role != HEAD and t.name not in found]
        if not others and not self.tensors:
            raise RecipeError(
                "update 'aflora' does not train A and B of layers with as many inputs as outputs, and there is nothing else",
                key="adapter.update_options",
                hint="square: trained",
            )
        if not others and self.settings["final"] == 0:
            raise RecipeError(
                "update 'aflora' freezes every factor in the end, and this adapter has nothing else that trains",
                key="adapter.update_options",
                hint="final: 0.25, or a method with vectors beside its factors",
            )
        zeros = {name: torch.zeros_like(t.parameter, requires_grad=False) for name, t in self.tensors.items()}
        self.window = zeros
        self.sensitivity = {name: zero.clone() for name, zero in zeros.items()}
        self.uncertainty = {name: zero.clone() for name, zero in zeros.items()}
        self.frozen: list[str] = []
        for tensor in never.values():
            self.stop(tensor)
        total = context.schedule.total_steps
        self.begin, self.end = (
            steps_in(share, total) for share in (self.settings["begin"], 1 - self.settings["settle"])
        )

    @classmethod
    def untrained(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> dict[str, TrainedTensor]:
        """A and B of layers with as many inputs as outputs, where `square` says so."""
        if settings["square"] != "frozen":
            return {}
        found = {tensor.name: tensor for tensor in factors(adapted, cls.name)}
        sites = {name: adapted.adapters[tensor.site or ""].site for name, tensor in found.items()}
        return {name: tensor for name, tensor in found.items() if sites[name].in_features == sites[name].out_features}

    @property
    def live(self) -> dict[str, TrainedTensor]:
        """The factors that still train."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.frozen}

    def settled(self, state: TrainState) -> bool:
        """Whether the final share is reached."""
        return state.step >= self.end

    def before_optimizer_step(self, state: TrainState) -> None:
        """Add |g| to the window's sum."""
        for name, tensor in self.live.items():
            if tensor.parameter.grad is not None:
                self.window[name] += tensor.parameter.grad.abs()

    def after_step(self, state: TrainState) -> None:
        """At the end of a window: score, and freeze what is over the share."""
        if state.step % self.settings["window"]:
            return
        b1, b2 = self.settings["b1"], self.settings["b2"]
        for name in self.live:
            mean = self.window[name] / self.settings["window"]
            self.sensitivity[name].mul_(b1).add_(mean, alpha=1 - b1)
            self.uncertainty[name].mul_(b2).add_((mean - self.sensitivity[name]).abs(), alpha=1 - b2)
            self.window[name].zero_()
        share = remaining(state.step, self.begin, self.end, self.settings["final"])
        for name in self.low_by_entries(share) if self.settings["cut"] == "entries" else self.low_by_tensors(share):
            self.freeze(name)

    def low_by_entries(self, share: float) -> list[str]:
        """Of the tensors that still train those whose score is below the quantile 1 - ``share`` of all their entries; all of them for 0."""
        if share == 0 or not self.live:
            return [*self.live]
        entries = torch.cat([self.product(name).flatten() for name in self.live])
        below = math.floor(round((1 - share) * len(entries), 6))
        if not below:
            return []
        bound = float(entries.kthvalue(below).values)
        return [name for name, score in self.scores().items() if score < bound]

    def low_by_tensors(self, share: float) -> list[str]:
        """The tensors with the lowest scores, as many as train beyond the ``share`` of all."""
        scores = self.scores()
        surplus = len(scores) - math.ceil(round(share * len(self.tensors), 9))
        return sorted(scores, key=lambda name: scores[name])[: max(surplus, 0)]

    def product(self, name: str) -> torch.Tensor:
        """I * U of each entry of a tensor."""
        return self.sensitivity[name] * self.uncertainty[name]

    def scores(self) -> dict[str, float]:
        """Tensor name -> mean of I * U, of those that still train."""
        return {name: float(self.product(name).mean()) for name in self.live}

    def freeze(self, name: str) -> None:
        """Stop training the tensor for good."""
        self.stop(self.tensors[name])
        self.frozen.append(name)

    def stop(self, tensor: TrainedTensor) -> None:
        """Freeze it where it is."""
        adapter = self.context.adapted.adapters[tensor.site or ""]
        freeze_for_good(adapter, tensor.name.removeprefix(f"{tensor.site}."))

    def state_dict(self) -> dict[str, Any]:
        """What was seen of the gradients, and what was frozen."""
        seen = {"window": self.window, "sensitivity": self.sensitivity, "uncertainty": self.uncertainty}
        packed = {key: pack_all({name: held[name] for name in self.live}) for key, held in seen.items()}
        return super().state_dict() | packed | {"frozen": self.frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        for name in state["frozen"]:
            self.freeze(name)
        for held, key in (
            (self.window, "window"),
            (self.sensitivity, "sensitivity"),
            (self.uncertainty, "uncertainty"),
        ):
            for name, record in state[key].items():
                held[name] = unpack(record).to(held[name].device)


updates.register(AFLoRA)
