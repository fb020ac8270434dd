"""The axes of an adapter as plain data, and the methods as presets over them (DESIGN: methods are points in a product)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lorakit import registry
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import AdapterSection

SCALES: dict[str, Callable[[float, int], float]] = {
    "lora": lambda alpha, rank: alpha / rank,
    "rslora": lambda alpha, rank: alpha / math.sqrt(rank),
    "constant": lambda alpha, rank: alpha,
}
"""Scale rules: (alpha, rank) -> s in W' = W + s dW. LoRA (Hu et al. 2021, section 4.1); rsLoRA (Kalajdzievski 2023)."""


@dataclass(frozen=True)
class Method:
    """A named preset over the axes, with what `lorakit show` tells about it.

    name: what recipes call it; title: its full name; summary: one line; source: paper and section.
    """

    name: str
    title: str
    summary: str
    source: str
    delta: str = "low_rank"
    init: str = "kaiming"
    scale: str = "lora"
    trainable: str = "all"
    decomposition: str = "none"
    lr_ratio: float = 1.0


@dataclass(frozen=True)
class AdapterSpec:
    """One value on every axis: all that is needed to build the adapter of any site."""

    delta: str
    init: str
    scale: str
    trainable: str
    decomposition: str
    lr_ratio: float
    rank: int
    alpha: float
    dropout: float

    def scale_at(self, rank: int) -> float:
        """The factor s of the update at ``rank``."""
        return SCALES[self.scale](self.alpha, rank)

    def trains(self, role: str) -> bool:
        """Whether tensors of ``role`` (A, B, magnitude, ...) are trained."""
        return self.trainable == "all" or role in self.trainable.split("+")


def resolve(section: AdapterSection) -> AdapterSpec:
    """The linear sites' axes: the method's values, overridden by what the recipe sets.

    Raises RecipeError for names that are not registered and for values that do not go together.
    """
    method: Method = registry.methods.get(section.method)
    spec = AdapterSpec(
        delta=section.delta or method.delta,
        init=section.init or method.init,
        scale=section.scale or method.scale,
        trainable=section.trainable or method.trainable,
        decomposition=section.decomposition or method.decomposition,
        lr_ratio=method.lr_ratio if section.lr_ratio is None else section.lr_ratio,
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
    )
    roles = set(registry.deltas.get(spec.delta).roles.values())
    registry.inits.get(spec.init)
    wanted = set(spec.trainable.split("+"))
    if spec.trainable != "all" and not (wanted & roles and wanted <= roles | {"magnitude"}):
        raise RecipeError(
            Problem(
                f"trainable '{spec.trainable}' does not name the tensors of delta '{spec.delta}'",
                key="adapter.trainable",
                valid=f"all, or of {'+'.join(sorted(roles))}, with +magnitude where there is one",
            )
        )
    return spec


def shortcut_spec(section: AdapterSection) -> AdapterSpec:
    """The shortcuts' axes: as the linear sites', with their own rank and alpha and no decomposition (there is no weight)."""
    spec = resolve(section)
    return AdapterSpec(
        delta=spec.delta,
        init="kaiming",
        scale=spec.scale,
        trainable=spec.trainable,
        decomposition="none",
        lr_ratio=spec.lr_ratio,
        rank=section.shortcut_rank or section.rank,
        alpha=section.alpha if section.shortcut_alpha is None else section.shortcut_alpha,
        dropout=section.dropout,
    )
