"""Rotary positions divided by a factor: the function of the plain model at divided positions, and what cannot be divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import TinyModels, tiny_model
from torch.testing import assert_close

from lorakit.backbone.load import Backbone, load_backbone
from lorakit.errors import RecipeError
from lorakit.recipe.schema import ModelSection

KNOWN = 16


def load(
    tiny: TinyModels, family: str, scaling: float | str | None, longest: int | None = None, **config: Any
) -> Backbone:
    section = ModelSection(name=str(tiny(family, **config)), rope_scaling=scaling)
    return load_backbone(section, labels=("0", "1"), regression=False, seed=0, offline=True, longest=longest)


@torch.no_grad()
def states(backbone: Backbone, **given: torch.Tensor) -> torch.Tensor:
    tokens = torch.arange(4, 28)[None]
    whole = torch.ones_like(tokens)  # else places that are not whole numbers would be taken for several rows in one
    return backbone.model.base_model(input_ids=tokens, attention_mask=whole, **given).last_hidden_state


@pytest.mark.parametrize(
    ("family", "given", "longest", "factor"),
    [("llama", 2.5, None, 2.5), ("mistral", "auto", 24, 2.0), ("gpt_neox", "auto", 33, 3.0)],
)
def test_it_is_the_plain_model_at_divided_positions(
    tiny: TinyModels, family: str, given: float | str, longest: int | None, factor: float
):
    plain = load(tiny, family, None, max_position_embeddings=KNOWN)
    scaled = load(tiny, family, given, longest, max_position_embeddings=KNOWN)
    divided = torch.arange(24)[None] / factor
    assert_close(states(scaled), states(plain, position_ids=divided), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(states(scaled), states(plain), rtol=1e-2, atol=1e-2)
    assert scaled.model.config.rope_parameters["factor"] == factor
    assert f"divided by {factor:g}" in " ".join(scaled.notes)


def test_rows_that_fit_need_none(tiny: TinyModels):
    scaled = load(tiny, "llama", "auto", KNOWN, max_position_embeddings=KNOWN)
    assert scaled.model.config.rope_parameters["rope_type"] == "default"
    assert not scaled.notes


def test_longer_rows_than_it_was_pretrained_on_are_told(tiny: TinyModels):
    assert "model.rope_scaling=auto" in " ".join(load(tiny, "llama", None, 24, max_position_embeddings=KNOWN).notes)


def test_the_tokenizer_makes_rows_as_long(tiny: TinyModels):
    """The tiny tokenizer stops at 64 tokens, the model's positions."""
    assert load(tiny, "llama", None, 200).longest_text(200) == 64
    assert load(tiny, "llama", "auto", 200).longest_text(200) == 200


@pytest.mark.parametrize("family", ["bert", "opt"])
def test_what_has_none_is_refused(tiny: TinyModels, family: str):
    with pytest.raises(RecipeError, match="no rotary positions") as caught:
        load(tiny, family, "auto", 24)
    assert caught.value.problems[0].key == "model.rope_scaling"


def test_what_is_scaled_already_is_refused(tmp_path: Path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    section = ModelSection(name=str(tiny_model("llama", tmp_path, rope_parameters=rope)), rope_scaling=2.0)
    with pytest.raises(RecipeError, match="scaled already"):
        load_backbone(section, labels=("0", "1"), regression=False, seed=0, offline=True)
