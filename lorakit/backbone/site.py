"""A site: one adaptable place in a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorakit.recipe.schema import SHORTCUTS as SHORTCUTS

Kind = Literal["linear", "conv1d", "shortcut", "module", "layer", "input"]

ROLES = ("q", "k", "v", "o", "up", "gate", "down")


@dataclass(frozen=True)
class Site:
    """One adaptable place."""

    name: str
    """The module's path in the model, ``bert.encoder.layer.3.attention.self.query``; for a shortcut, and for what a block adds to a
    layer or to the input, the path of the layer and the role, ``bert.encoder.layer.3.res1``."""
    layer: int
    """Counted from 0 at the input; -1 where a module belongs to no layer."""
    role: str
    """One of ROLES, ``qkv`` where a family keeps the three in one matrix, a shortcut's or a block's role, or ``other``."""
    in_features: int
    """The width of what comes in. A shortcut maps the hidden width to itself."""
    out_features: int
    """The width of what goes out."""
    kind: Kind
    """A projection (linear, conv1d), a shortcut, another module whose own parameters are adapted, or what is added to a layer or
    to the input."""
    bias: bool = True
    """Whether the projection has one."""
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The module's own parameters that are adapted, (name, shape) each."""

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
