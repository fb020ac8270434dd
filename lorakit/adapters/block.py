"""What is not an update of a projection's weight: where such an adapter sits, and how it gets into the function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import nn

from lorakit.registry import Registry

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter
    from lorakit.backbone.load import Backbone
    from lorakit.backbone.site import Site


class Wiring(Protocol):
    """Installs adapters that are no module's own into the model."""

    def wire(self) -> None:
        """Install exactly those that are in the function (their ``state``), after some went on or off."""


class Block(ABC):
    """A family of sites that recipes do not name by ``adapter.targets``."""

    name: ClassVar[str]
    """What methods call it."""
    summary: ClassVar[str]
    """Where it sits, in a line."""

    @abstractmethod
    def sites(self, backbone: Backbone) -> list[Site]:
        """The block's sites in model order. Raises RecipeError (key ``adapter.method``) for a model that has no place for it."""

    def wiring(self, backbone: Backbone, adapters: Sequence[Adapter]) -> Wiring | None:
        """What installs the adapters; None where they stand in for modules' forwards or parameters, and install themselves."""
        return None


def free_name(model: nn.Module, name: str) -> str:
    """``name`` for a new child of ``model``, numbered where there are children called so already."""
    taken = sum(child.startswith(name) for child, _ in model.named_children())
    return f"{name}{taken + 1}" if taken else name


blocks: Registry[Block] = Registry("block", "lorakit.adapters.blocks")
