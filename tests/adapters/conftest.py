"""Pretrained backbones, tiny and random, of several families."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from support.models import tiny_model

from lorakit.backbone.load import Backbone, load_backbone
from lorakit.recipe.schema import ModelSection

pytest.register_assert_rewrite("support.adapters.cases", "support.adapters.contract", "support.adapters.products")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    """``fresh(family)``: a copy of the same pretrained backbone at every call, or with ``shared=True``, to be read only, itself."""
    loaded: dict[tuple[str, str, int], Backbone] = {}

    def load(family: str, dtype: str = "float32", layers: int = 2, shared: bool = False) -> Backbone:
        if (family, dtype, layers) not in loaded:
            folder = tmp_path_factory.mktemp(family)
            tiny_model(family, folder, num_hidden_layers=layers)
            section = ModelSection(name=str(folder), dtype=dtype)
            backbone = load_backbone(section, labels=("no", "yes", "both"), regression=False, seed=0, offline=True)
            backbone.tokenizer = None  # slow to copy, and not used
            loaded[family, dtype, layers] = backbone
        backbone = loaded[family, dtype, layers]
        return backbone if shared else copy.deepcopy(backbone)

    return load
