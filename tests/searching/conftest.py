"""Tiny random backbones with forty rows of random words, adapted anew for every test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from datasets import Dataset
from support.models import WORDS, tiny_model

from lorakit.backbone.load import Backbone, load_backbone
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.batching import Encoded, encode

if TYPE_CHECKING:
    from support.search.scene import Scene

pytest.register_assert_rewrite("support.adapters.contract", "support.search.scene")
ROWS = 40


def rows_of_words() -> Dataset:
    """Texts of two to nine words, each row its own, with labels of three kinds."""
    rng = np.random.default_rng(7)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 10))) for _ in range(ROWS)]
    return Dataset.from_dict({"text": texts, "label": rng.integers(0, 3, ROWS).tolist(), "idx": list(range(ROWS))})


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Scene]:
    """``make(family, targets=, shortcuts=, **adapter section)``: a fresh scene; the same arguments give the same one."""
    from support.search.scene import make_scene

    loaded: dict[str, tuple[Backbone, Encoded]] = {}

    def build(family: str, **options: Any) -> Scene:
        if family not in loaded:
            section = ModelSection(name=str(tiny_model(family, tmp_path_factory.mktemp(family))))
            backbone = load_backbone(section, labels=("no", "yes", "both"), regression=False, seed=0, offline=True)
            encoded = encode(rows_of_words(), backbone.tokenizer, 32)
            backbone.tokenizer = None  # slow to copy, and not used
            loaded[family] = backbone, encoded
        backbone, encoded = loaded[family]
        return make_scene(copy.deepcopy(backbone), backbone.model, encoded, **options)

    return build
