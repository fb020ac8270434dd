"""The model's biases: those of projections and of norms, wherever they are outside the head."""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.block import Block, blocks
from lorakit.adapters.blocks.modules import module_sites
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site


class Biases(Block):
    """Every parameter that is called a bias (DeBERTa has a ``q_bias`` and a ``v_bias`` of attention's own)."""

    name: ClassVar = "biases"
    summary: ClassVar = "every bias of the backbone"

    def sites(self, backbone: Backbone) -> list[Site]:
        """The modules that have a bias, in model order."""
        return module_sites(backbone, "bias", lambda module, name: name.endswith("bias"))


blocks.register(Biases())
