"""The axes of an adapter as plain data (DESIGN: methods are points in a product)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import deltas
from lorakit.adapters.options import read_settings
from lorakit.recipe.schema import AdapterSection

SCALES: dict[str, Callable[[float, int], float]] = {
    "lora": lambda alpha, rank: alpha / rank,
    "rslora": lambda alpha, rank: alpha / math.sqrt(rank),
    "constant": lambda alpha, rank: alpha,
    "none": lambda alpha, rank: 1.0,
}
"""Scale rules: (alpha, rank) -> s in W' = W + s dW. LoRA (Hu et al. 2021, section 4.1); rsLoRA (Kalajdzievski 2023)."""


@dataclass(frozen=True)
class AdapterSpec:
    """One value on every axis: all that is needed to build the adapter of any site."""

    delta: str
    """What dW is made of: a file in ``deltas/``."""
    init: str
    """Where it starts: a file in ``inits/``."""
    scale: str
    """The rule for s, one of ``SCALES``."""
    trainable: str
    """The roles that train, joined by +, or all."""
    decomposition: str
    """magnitude (DoRA) or none."""
    lr_ratio: float
    """The learning rate of B over that of A."""
    rank: int
    """How many rank units a site has where nothing else is said of it."""
    alpha: float
    """The scale's numerator."""
    dropout: float
    """The share of the adapter's inputs that is dropped in training."""
    options: tuple[tuple[str, Any], ...] = ()
    """(name, value) of the delta's options that are given, in alphabetical order."""
    init_steps: int = AdapterSection.init_steps
    """How often an init alternates that quantises."""

    def __post_init__(self) -> None:
        """Options in one order, as tuples, also where they come from a file."""
        object.__setattr__(self, "options", tuple(sorted((str(name), value) for name, value in self.options)))

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the delta's options, defaults included."""
        return deltas.get(self.delta).settings_of(dict(self.options))

    def scale_at(self, rank: int) -> float:
        """The factor s of the update at ``rank``."""
        return SCALES[self.scale](self.alpha, rank)

    def trains(self, role: str) -> bool:
        """Whether tensors of ``role`` (A, B, magnitude, ...) are trained."""
        return role != START and (self.trainable == "all" or role in self.trainable.split("+"))

    def with_options(self, options: Mapping[str, Any] | None) -> AdapterSpec:
        """The same with some of the delta's options changed (``None``: none of them)."""
        return replace(self, options=tuple({**dict(self.options), **options}.items())) if options else self


def read_options(delta: str, given: Mapping[str, str], key: str = "adapter.options") -> dict[str, Any]:
    """Those of the delta's options that are given, as their types. Raises RecipeError for names and values it does not have."""
    settings = read_settings(f"delta '{delta}'", deltas.get(delta).options, given, key)
    return {name: settings[name] for name in given}
