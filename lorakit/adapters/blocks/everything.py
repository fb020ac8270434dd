"""All of the backbone: every parameter outside the head, embeddings included."""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.block import Block, blocks
from lorakit.adapters.blocks.modules import module_sites
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site


class Everything(Block):
    """Every module that has parameters, with all of them. Buffers, such as position numbers, are none."""

    name: ClassVar = "everything"
    summary: ClassVar = "every parameter of the backbone"

    def sites(self, backbone: Backbone) -> list[Site]:
        """The modules with parameters in model order."""
        return module_sites(backbone, "weights", lambda module, name: True)


blocks.register(Everything())
