"""The table of token embeddings."""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.block import Block, blocks
from lorakit.adapters.blocks.modules import module_sites
from lorakit.backbone.head import embedding_weight
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site


class Embeddings(Block):
    """The module whose weight is the table; positions and token types have others."""

    name: ClassVar = "embeddings"
    summary: ClassVar = "the table of token embeddings"

    def sites(self, backbone: Backbone) -> list[Site]:
        """The one site."""
        table = embedding_weight(backbone.model)
        return module_sites(backbone, "embedding", lambda module, name: getattr(module, name) is table)


blocks.register(Embeddings())
