"""LoRAPrune's pruning of the frozen model, by what LoRA's gradients say of it (Zhang et al. 2023, section 3).

    G = g_B A + B g_A - g_B g_A        g_A, g_B: the step's gradients of A and B, clipped as they are used
    I = |G o (W + s B A)|              summed over what goes together: an MLP's channel has a row of up, one of gate, a column of down; a
                                       head of keys and values its rows of v, k and all q that look at it, its columns of o
    I <- 0.9 I + 0.1 (the sum over these matrices, each over its norm)        every step

G is what a step of rate 1 down the gradients of A and B takes from B A, so no gradient of W is computed; a factor that all of a matrix
has in common, as s, goes with the norm. Where B = 0 it is g_B A = s (dL/dW) A^T A.
All layers give up equally many: the share kept falls as a cubic from 1 to 1 - `share`, from `begin` of the run on, and in its last
`settle` none go. Every `every` steps those of the smallest I are closed, and stay so: in delta `masked` their output is 0, which is
the function of the smaller model. `lorakit merge` cuts them out, and writes a plain checkpoint of that size. Training is no faster.
Heads go with `heads` above 0, where a config has their width (Llama, Mistral, Qwen, Gemma).
Options: share, heads, begin, settle, every, beta.
Differs from the authors' code in: heads stay unless asked for; the first tenth of the layers and the last one are pruned too, since a
config has one number for all; query heads go with the keys they share; a last tick closes the whole share, and theirs stop short of it.
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
from lorakit.backbone.channels import CHANNELS, HEADS, Part, config_with, parts_of
from lorakit.backbone.quantised import KEY, NONE
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.unit_allocator import remaining
from lorakit.training import pruning
from lorakit.training.hooks import TrainState
from lorakit.training.schedule import steps_in
from lorakit.training.update import Update, UpdateContext, needs_delta, starts_fresh, updates

Tensor = torch.Tensor
SMALLEST_NORM = 1e-8
OPTIONS = "adapter.update_options"
SHARES = {CHANNELS: "share", HEADS: "heads"}
"""Kind -> the option that says how much of it goes."""


class PruneChannels(Update):
    """parts: the channels, and heads, of every layer of which some go; importance: I of each (number,)."""

    name = "prune_channels"
    summary = "channels of the frozen model's MLPs, and heads, are closed by LoRA's gradients, for `merge` to cut out"
    source = "Zhang et al. 2023, LoRAPrune, arXiv 2305.18403"
    fixes_entries = True
    reshapes = True
    needs_whole_weights = True
    options: ClassVar = {
        "share": Option(0.5, "share of each MLP's channels that goes", low=0, high=0.999),
        "heads": Option(0.0, "share of each layer's heads of keys and values that goes", low=0, high=0.999),
        "begin": Option(0.1, "share of the steps before any goes", low=0, high=1),
        "settle": Option(0.1, "share of the steps, at the end, in which no more go", low=0, high=1),
        "every": Option(10, "steps between two ticks at which some go", low=1),
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
            what = f"update '{cls.name}' needs gradients at every layer, and a search takes sites and ranks out"
            problems.append(Problem(what, key="search.method", valid="none"))
        if recipe.model.quantization != NONE:
            what = f"update '{cls.name}' reads the dense weights in every step, which quantised ones would be made anew each time"
            problems.append(Problem(what, key=KEY, valid=NONE, hint="lorakit quantize, after lorakit merge"))
        if recipe.training.freeze_below:
            what = f"update '{cls.name}' takes as much from every layer, and frozen lower layers have no adapters to score by"
            problems.append(Problem(what, key="training.freeze_below", valid="null with it"))
        return problems

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """What the model will be. Raises RecipeError for a model, targets, shares or times of which nothing can be pruned."""
        if settings["begin"] + settings["settle"] >= 1:
            what = f"update '{cls.name}' has no time to prune between `begin` {settings['begin']:g} and `settle` {settings['settle']:g}"
            raise RecipeError(what, key=OPTIONS, valid="a sum below 1")
        whole = sum(parameter.numel() for parameter in adapted.model.parameters())
        whole -= sum(p.numel() for adapter in adapted.adapters.values() for p in adapter.parameters())
        told, gone = [], 0
        for kind, parts in prunable(adapted, settings).items():
            number, left = parts[0].number, pruning.part(1 - settings[SHARES[kind]], parts[0].number)
            config_with(adapted.backbone.model.config, kind, left)
            gone += (number - left) * sum(part.parameters for part in parts)
            told.append(f"{number:,} {kind} a layer to {left:,}")
        sizes = f"{whole:,} parameters to {whole - gone:,}"
        return [
            f"update '{cls.name}': the model goes from {', '.join([*told, sizes])}, which `lorakit merge` writes",
            f"only evaluations in the last {settings['settle']:.0%} of the steps, in which no more goes, can be the best",
        ]

    @classmethod
    def step_bytes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> int:
        """Of the largest matrix W + s B A, its product with the gradient, and the sizes of that, one after the other for all."""
        sites = [site for parts in prunable(adapted, settings).values() for part in parts for site in part.sites]
        return 3 * 4 * max(site.in_features * site.out_features for site in sites)

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.parts = [part for parts in prunable(context.adapted, self.settings).values() for part in parts]
        device = self.mask(self.parts[0]).kept.device
        self.importance = {(part.kind, part.layer): torch.zeros(part.number, device=device) for part in self.parts}
        total = context.schedule.total_steps
        self.begin, self.end = (
            steps_in(share, total) for share in (self.settings["begin"], 1 - self.settings["settle"])
        )
        if self.begin >= self.end:
            what = f"the training is too short for update '{self.name}', to begin after step {self.begin} and end at step {self.end}"
            raise RecipeError(what, key=OPTIONS, hint="a smaller begin or settle, or more steps")

    def settled(self, state: TrainState) -> bool:
        """Whether the whole share is gone."""
        return state.step >= self.end

    @torch.no_grad()
    def before_optimizer_step(self, state: TrainState) -> None:
        """Score: gradients and weights of one moment."""
        adapters, beta = self.context.adapted.adapters, self.settings["beta"]
        for part in self.parts:
            before = self.importance[part.kind, part.layer]
            reads, size = part.reads
            score = grouped_score(adapters[reads.name], size, axis=1)
            score += sum(grouped_score(adapters[site.name], size, axis=0) for site, size in part.writes)
            after = beta * before + (1 - beta) * score
            before.copy_(torch.where(after.isfinite().all(), after, before))  # fp16 leaves such steps out

    def after_step(self, state: TrainState) -> None:
        """Close those of the smallest importance, at a tick."""
        step, every = state.step, self.settings["every"]
        if step != self.end and not (self.begin < step < self.end and (step - self.begin) % every == 0):
            return
        for part in self.parts:
            share = remaining(step, self.begin, self.end, 1 - self.settings[SHARES[part.kind]])
            mask, size = self.mask(part), part.writes[0][1]
            closed = ~mask.open_groups(size)
            importance = self.importance[part.kind, part.layer].masked_fill(closed, -1)
            mask.leave_open(pruning.largest(importance, pruning.part(share, part.number)), size)

    def mask(self, part: Part) -> Masked:
        """The delta whose outputs are closed."""
        return cast(Masked, self.context.adapted.adapters[part.sites[0].name].delta)

    def tensor_state(self) -> dict[str, Tensor]:
        """The importance; what is closed is in the adapters."""
        return {f"{kind}.{layer}": importance for (kind, layer), importance in self.importance.items()}

    def load_tensor_state(self, tensors: dict[str, Tensor]) -> None:
        """Continue from ``tensor_state()``."""
        for (kind, layer), importance in self.importance.items():
            importance.copy_(tensors[f"{kind}.{layer}"])


def prunable(adapted: AdaptedModel, settings: Mapping[str, Any]) -> dict[str, list[Part]]:
    """Kind -> those of every layer, of what some are to go of.

    Raises RecipeError where the model cannot have fewer, a projection has no adapter, or none would go.
    """
    found: dict[str, list[Part]] = {}
    for kind, share in SHARES.items():
        if not settings[share]:
            continue
        found[kind] = parts = parts_of(kind, adapted.backbone.anatomy, adapted.backbone.model.config)
        missing = [site.name for part in parts for site in part.sites if site.name not in adapted.adapters]
        if missing:
            roles = ", ".join(site.role for site in parts[0].sites)
            what = f"update 'prune_channels' scores {kind} by the gradients of {roles} in every layer, and {missing[0]} has no adapter"
            raise RecipeError(what, key="adapter.targets", valid="all, or these among others")
        if pruning.part(1 - settings[share], parts[0].number) == parts[0].number:
            what = (
                f"update 'prune_channels' has nothing to prune: {settings[share]:g} of {parts[0].number} {kind} is none"
            )
            raise RecipeError(what, key=OPTIONS, hint=f"a larger {share}, or 0")
    if not found:
        raise RecipeError(
            "update 'prune_channels' has nothing to prune: its shares are 0", key=OPTIONS, valid="share above 0"
        )
    return found


def weight_gradient(a: Tensor, b: Tensor, grad_a: Tensor, grad_b: Tensor) -> Tensor:
    """g_B A + B g_A - g_B g_A (out x in) for A, g_A (rank x in) and B, g_B (out x rank)."""
    return torch.cat([grad_b, b - grad_b], dim=1) @ torch.cat([a, grad_a])


def grouped_score(adapter: Adapter, size: int, axis: int) -> Tensor:
    """|G o (W + s B A)| summed over every ``size`` rows (axis 0) or columns (axis 1) side by side, over its norm (groups,)."""
    delta = cast(Masked, adapter.delta)
    a, b = delta.A, delta.B
    assert a.grad is not None
    assert b.grad is not None
    weight = torch.addmm(adapter.base_weight().to(a.dtype), b, a, alpha=adapter.scale)
    score = (weight_gradient(a, b, a.grad, b.grad) * weight).abs().sum(dim=1 - axis).view(-1, size).sum(dim=1)
    return score / (score.norm() + SMALLEST_NORM)


updates.register(PruneChannels)
