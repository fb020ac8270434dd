"""LoRAPrune's pruning of the frozen model, by what LoRA's gradients say of it (Zhang et al. 2023, section 3).

    G = g_B A + B g_A - g_B g_A        g_A, g_B: the step's gradients of A and B, clipped as they are used
    I = |G o (W + s B A)|              of each number of up, gate and down; summed over the row of up, the row of gate, the column of down
    I <- 0.9 I + 0.1 (the sum over the MLP's matrices, each over its norm over all channels)        every step

G is what a step of rate 1 down the gradients of A and B takes from B A, so no gradient of W is computed; a factor that all of a matrix
has in common, as s, goes with the norm. Where B = 0 it is g_B A = s (dL/dW) A^T A.
Channels of MLPs go, in all layers equally many: the share kept falls as a cubic from 1 to 1 - `share`, from `begin` of the run on, in
its last `settle` none go. Every `every` steps those of the smallest I are closed, and stay so: in delta `masked` their output is 0, which
is the function of the smaller model. `lorakit merge` cuts them out, and writes a plain checkpoint of that width. Training is not faster.
Options: share, begin, settle, every, beta.
Differs from the authors' code in: attention heads stay, as few configs can have fewer; the first tenth of the layers and the last
one are pruned too, since a config has one width for all; a last tick closes the whole share, and theirs stop short of it.
When to use it: where the model that is deployed should be smaller and faster, and the task's data are there to prune it by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.deltas.masked import Masked
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.channels import Mlp, mlps
from lorakit.backbone.quantised import KEY, NONE
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.unit_allocator import remaining
from lorakit.training.hooks import TrainState
from lorakit.training.pruning import largest, part
from lorakit.training.schedule import steps_in
from lorakit.training.update import Update, UpdateContext, needs_delta, starts_fresh, updates

Tensor = torch.Tensor
SMALLEST_NORM = 1e-8


class PruneChannels(Update):
    """importance: layer -> I of its channels (width,)."""

    name = "prune_channels"
    summary = "channels of the frozen model's MLPs are closed by LoRA's gradients, more and more of them, for `merge` to cut out"
    source = "Zhang et al. 2023, LoRAPrune, arXiv 2305.18403"
    fixes_entries = True
    needs_whole_weights = True
    options: ClassVar = {
        "share": Option(0.5, "share of each MLP's channels that goes", low=0.001, high=0.999),
        "begin": Option(0.1, "share of the steps before any goes", low=0, high=1),
        "settle": Option(0.1, "share of the steps, at the end, in which no more go", low=0, high=1),
        "every": Option(10, "steps between two ticks at which channels go", low=1),
        "beta": Option(0.9, "how slowly the importance changes", low=0, high=0.9999),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs its delta with both factors trained over plain weights, and goes with no search."""
        problems = [*needs_delta(cls.name, Masked.name, spec), *starts_fresh(cls.name, recipe)]
        if not (spec.trains("A") and spec.trains("B")):
            what = f"update '{cls.name}' scores by the gradients of A and B, and '{spec.trainable}' alone trains"
            problems.append(Problem(what, key="adapter.trainable", valid="all"))
        if recipe.search.method != "none":
            what = f"update '{cls.name}' needs every MLP's gradients, and a search takes sites and ranks out"
            problems.append(Problem(what, key="search.method", valid="none"))
        if recipe.model.quantization != NONE:
            what = f"update '{cls.name}' reads the dense weights in every step, which quantised ones would be made anew each time"
            problems.append(Problem(what, key=KEY, valid=NONE, hint="lorakit quantize, after lorakit merge"))
        if recipe.training.freeze_below:
            what = f"update '{cls.name}' takes as many channels from every layer, and frozen lower layers have no adapters to score by"
            problems.append(Problem(what, key="training.freeze_below", valid="null with it"))
        return problems

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """What the model will be. Raises RecipeError for a model, targets or times of which nothing can be pruned."""
        if settings["begin"] + settings["settle"] >= 1:
            what = f"update '{cls.name}' has no time to prune between `begin` {settings['begin']:g} and `settle` {settings['settle']:g}"
            raise RecipeError(what, key="adapter.update_options", valid="a sum below 1")
        found = adapted_mlps(adapted)
        width = found[0].width
        left = part(1 - settings["share"], width)
        gone = (width - left) * sum(mlp.numbers for mlp in found)
        whole = sum(parameter.numel() for parameter in adapted.model.parameters())
        whole -= sum(p.numel() for adapter in adapted.adapters.values() for p in adapter.parameters())
        return [
            f"update '{cls.name}': every MLP goes from {width:,} channels to {left:,}, the model from {whole:,} parameters to "
            f"{whole - gone:,}, which `lorakit merge` writes"
        ]

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.mlps = adapted_mlps(context.adapted)
        self.importance = {mlp.layer: torch.zeros_like(self.mask(mlp), requires_grad=False) for mlp in self.mlps}
        total = context.schedule.total_steps
        self.begin, self.end = (
            steps_in(share, total) for share in (self.settings["begin"], 1 - self.settings["settle"])
        )

    def settled(self, state: TrainState) -> bool:
        """Whether the whole share is gone."""
        return state.step >= self.end

    @torch.no_grad()
    def before_optimizer_step(self, state: TrainState) -> None:
        """Score: gradients and weights of one moment."""
        adapters, beta = self.context.adapted.adapters, self.settings["beta"]
        for mlp in self.mlps:
            before = self.importance[mlp.layer]
            score = sum(channel_scores(adapters[site.name], axis=int(site is mlp.down)) for site in mlp.sites)
            after = beta * before + (1 - beta) * score
            before.copy_(torch.where(after.isfinite().all(), after, before))  # fp16 leaves such steps out

    @torch.no_grad()
    def after_step(self, state: TrainState) -> None:
        """Close the channels of the smallest importance, at a tick."""
        if state.step == self.end or (
            self.begin < state.step < self.end and (state.step - self.begin) % self.settings["every"] == 0
        ):
            share = remaining(state.step, self.begin, self.end, 1 - self.settings["share"])
            for mlp in self.mlps:
                kept = self.mask(mlp)
                open_ones = self.importance[mlp.layer].masked_fill(kept == 0, -1)
                kept.copy_(largest(open_ones, part(share, mlp.width)))

    def mask(self, mlp: Mlp) -> Tensor:
        """Which of its channels are open (width,)."""
        return cast(Masked, self.context.adapted.adapters[mlp.up.name].delta).kept

    def tensor_state(self) -> dict[str, Tensor]:
        """The importance; what is closed is in the adapters."""
        return {str(layer): importance for layer, importance in self.importance.items()}

    def load_tensor_state(self, tensors: dict[str, Tensor]) -> None:
        """Continue from ``tensor_state()``."""
        for layer, importance in self.importance.items():
            importance.copy_(tensors[str(layer)])


def adapted_mlps(adapted: AdaptedModel) -> list[Mlp]:
    """The model's MLPs. Raises RecipeError where they cannot be pruned, or one of their projections has no adapter."""
    found = mlps(adapted.backbone.anatomy, adapted.backbone.model.config)
    missing = [site.name for mlp in found for site in mlp.sites if site.name not in adapted.adapters]
    if missing:
        raise RecipeError(
            f"update 'prune_channels' scores channels by the gradients at all projections of every MLP, and {missing[0]} has no adapter",
            key="adapter.targets",
            valid=f"all, or {', '.join(site.role for site in found[0].sites)} and others, in every layer",
        )
    return found


def weight_gradient(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor) -> Tensor:
    """g_B A + B g_A - g_B g_A (out x in) for A, g_A (rank x in) and B, g_B (out x rank)."""
    return torch.cat([grad_b, b - grad_b], dim=1) @ torch.cat([a, grad_a])


def channel_scores(adapter: Adapter, axis: int) -> Tensor:
    """|G o (W + s B A)| summed over all but ``axis``, over its norm: (out,) for axis 0, (in,) for axis 1."""
    b, a = cast(Masked, adapter.delta).B, cast(Masked, adapter.delta).A
    assert a.grad is not None
    assert b.grad is not None
    weight = torch.addmm(adapter.base_weight().to(a.dtype), b, a, alpha=adapter.scale)
    score = (weight_gradient(a, b, a.grad, b.grad) * weight).abs().sum(dim=1 - axis)
    return score / (score.norm() + SMALLEST_NORM)


updates.register(PruneChannels)
