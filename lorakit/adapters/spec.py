"""The axes of an adapter as plain data, and the methods as presets over them (DESIGN: methods are points in a product)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorakit.adapters.block import blocks
from lorakit.adapters.conflicts import conflicts, read_options
from lorakit.adapters.delta import START, deltas
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection
from lorakit.registry import Registry

if TYPE_CHECKING:
    from lorakit.backbone.load import Backbone
    from lorakit.backbone.site import Site

SCALES: dict[str, Callable[[float, int], float]] = {
    "lora": lambda alpha, rank: alpha / rank,
    "rslora": lambda alpha, rank: alpha / math.sqrt(rank),
    "constant": lambda alpha, rank: alpha,
    "none": lambda alpha, rank: 1.0,
}
"""Scale rules: (alpha, rank) -> s in W' = W + s dW. LoRA (Hu et al. 2021, section 4.1); rsLoRA (Kalajdzievski 2023)."""


@dataclass(frozen=True)
class Method:
    """A named preset over the axes, with what `lorakit show` tells about it.

    name: what recipes call it; title: its full name; summary: its formula in one line; source: paper and section; targets, rank,
    alpha and lr: its usual values, where the recipe gives none; options: those of its delta; block: where it sits, for what is
    not an update of a projection's weight; updates: what goes on during training; identity: whether a fresh model is exactly the
    pretrained one.
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
    targets: tuple[str, ...] = ("q", "v")
    rank: int = 8
    alpha: float = 16.0
    lr: float = 5e-4
    options: tuple[tuple[str, str], ...] = ()
    block: str | None = None
    updates: tuple[str, ...] = ()
    identity: bool = True

    def fill(self, section: AdapterSection) -> AdapterSection:
        """The section with this method's own targets, rank and alpha where it gives none."""
        return replace(
            section,
            targets=list(self.targets) if section.targets is None else section.targets,
            rank=self.rank if section.rank is None else section.rank,
            alpha=self.alpha if section.alpha is None else section.alpha,
        )

    def sites(self, backbone: Backbone, targets: Sequence[str] | None = None) -> list[Site]:
        """Where it sits: its block's places, or the projections that ``targets`` name (its usual ones by default)."""
        if self.block:
            block = blocks.get(self.block)
            return block.sites(backbone)
        return backbone.anatomy.select(self.targets if targets is None else targets)

    def resolve(self, section: AdapterSection) -> AdapterSpec:
        """See ``resolve``: here for who knows methods by name only."""
        return resolve(section)


methods: Registry[Method] = Registry("adapter method", "lorakit.adapters.methods")


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
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Options in one order, as tuples, also where they come from a file."""
        object.__setattr__(self, "options", tuple(sorted((str(name), value) for name, value in self.options)))

    def scale_at(self, rank: int) -> float:
        """The factor s of the update at ``rank``."""
        return SCALES[self.scale](self.alpha, rank)

    def trains(self, role: str) -> bool:
        """Whether tensors of ``role`` (A, B, magnitude, ...) are trained."""
        return role != START and (self.trainable == "all" or role in self.trainable.split("+"))

    def with_options(self, options: Mapping[str, Any] | None) -> AdapterSpec:
        """The same with some of the delta's options changed (``None``: none of them)."""
        return replace(self, options=tuple({**dict(self.options), **options}.items())) if options else self


def resolve(section: AdapterSection) -> AdapterSpec:
    """The sites' axes: the method's values, overridden by what the recipe sets.

    Raises RecipeError for names that are not registered and for values that do not go together, all of them at once.
    """
    method = methods.get(section.method)
    section = method.fill(section)
    assert section.rank is not None
    assert section.alpha is not None
    delta = section.delta or method.delta
    own = dict(method.options) if delta == method.delta else {}
    spec = AdapterSpec(
        delta=delta,
        init=section.init or default_init(method, delta),
        scale=section.scale or default_scale(method, delta),
        trainable=section.trainable or (method.trainable if delta == method.delta else "all"),
        decomposition=section.decomposition or method.decomposition,
        lr_ratio=method.lr_ratio if section.lr_ratio is None else section.lr_ratio,
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        options=tuple(read_options(delta, {**own, **section.options}).items()),
    )
    if problems := conflicts(spec):
        raise RecipeError(problems)
    return spec


def default_init(method: Method, delta: str) -> str:
    """The method's init; with another delta than the method's, one that it can start from."""
    if delta == method.delta:
        return method.init
    if not deltas.get(delta).draws():
        return "nothing"
    return method.init if method.init != "nothing" else "kaiming"


def default_scale(method: Method, delta: str) -> str:
    """The method's scale rule; with another delta than the method's, none where that one is no sum."""
    return method.scale if delta == method.delta or deltas.get(delta).additive else "none"


def shortcut_spec(section: AdapterSection) -> AdapterSpec:
    """The shortcuts' axes: as the linear sites', with their own rank and alpha, without what looks at a weight or is shared.

    A delta that cannot sit on a shortcut leaves them to LoRA.
    """
    spec = resolve(section)
    delta = deltas.get(spec.delta)
    if "shortcut" not in delta.kinds or delta.shared_roles:
        spec = resolve(AdapterSection(dropout=section.dropout, rank=spec.rank, alpha=spec.alpha))
    return replace(
        spec,
        init="kaiming" if deltas.get(spec.delta).draws() else "nothing",
        decomposition="none",
        rank=section.shortcut_rank or spec.rank,
        alpha=spec.alpha if section.shortcut_alpha is None else section.shortcut_alpha,
    )
