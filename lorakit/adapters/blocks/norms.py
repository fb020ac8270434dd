"""The model's norms: LayerNorm and RMSNorm modules, wherever they are outside the head."""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.block import Block, blocks
from lorakit.adapters.blocks.modules import module_sites
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site


class Norms(Block):
    """Every module whose class is called a norm, with all of its parameters."""

    name: ClassVar = "norms"
    summary: ClassVar = "every LayerNorm and RMSNorm of the backbone"

    def sites(self, backbone: Backbone) -> list[Site]:
        """The norms in model order."""
        return module_sites(backbone, "norm", lambda module, name: "norm" in type(module).__name__.lower())


blocks.register(Norms())
