"""A site: one adaptable place in a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorakit.recipe.schema import SHORTCUTS as SHORTCUTS

Kind = Literal["linear", "conv1d", "shortcut", "module", "layer", "input"]

ROLES = ("q", "k", "v", "o", "up", "gate", "down")


@dataclass(frozen=True)
class Site:
    """One adaptable place.

    name: the module's path in the model (``bert.encoder.layer.3.attention.self.query``), or for a shortcut the path of its
    layer and its role (``bert.encoder.layer.3.res1``), as for what a block adds to a layer or to the input;
    layer: counted from 0 at the input, -1 where a module belongs to no
    layer; role: one of ROLES, ``qkv`` where a family keeps the three in one matrix, a shortcut's role, or ``other``;
    in_features and out_features: of the map the site adapts (a shortcut maps the hidden width to itself); kind: a projection
    (linear, conv1d), a shortcut, any other module whose own parameters are adapted, or what is added to a layer or the input;
    bias: whether the projection has one; parameters: a module's own parameters that are adapted, (name, shape) each.
    """

    name: str
    layer: int
    role: str
    in_features: int
    out_features: int
    kind: Kind
    bias: bool = True
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def label(self) -> str:
        """A short name for tables: ``3.q``."""
        return f"{self.layer}.{self.role}" if self.layer >= 0 else self.name

    @property
    def is_shortcut(self) -> bool:
        """Whether the site is a LoRA-adapted shortcut rather than a weight of the model."""
        return self.kind == "shortcut"

    @property
    def is_module(self) -> bool:
        """Whether ``name`` is the path of a module of the model."""
        return self.kind in ("linear", "conv1d", "module")
