"""Channels and heads of every family: their number in the config, what one of them has, and models that cannot have fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from support.models import FAMILIES

from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.channels import config_with, parts_of
from lorakit.errors import RecipeError

OWN_WIDTH = ("llama", "mistral", "qwen2", "gemma", "gemma2")
KNOWN = [family for family in FAMILIES if family != "mpnet"]


def built(family: str, **config: Any) -> Any:
    name, arguments, _ = FAMILIES[family]
    with torch.device("meta"):
        settings = getattr(transformers, name)(**arguments | config)
        return transformers.AutoModelForSequenceClassification.from_config(settings)


@pytest.mark.parametrize(("kind", "family"), [*(("channels", f) for f in KNOWN), *(("heads", f) for f in OWN_WIDTH)])
def test_a_model_of_that_config_lacks_them_and_nothing_else(kind: str, family: str):
    model = built(family)
    parts = parts_of(kind, Anatomy(model), model.config)
    number, left = (48, 13) if kind == "channels" else (2, 1)  # of keys and values; there are 4 of queries
    assert [part.number for part in parts] == [number, number]
    before = model.num_parameters()
    for name, value in config_with(model.config, kind, left).items():
        setattr(model.config, name, value)
    with torch.device("meta"):
        again = transformers.AutoModelForSequenceClassification.from_config(model.config)
    assert before - again.num_parameters() == (number - left) * sum(part.parameters for part in parts)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for part in parts:
        for name, axis, size in part.cuts():
            shapes[name][axis] = left * size
    assert shapes == {name: list(tensor.shape) for name, tensor in again.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "family", "config", "reason"),
    [
        ("channels", "mpnet", {}, "its family is not known"),
        ("channels", "bert", {"hidden_act": "sigmoid"}, "activation sigmoid is not 0 at 0"),  # it is 1/2 there
        ("heads", "bert", {}, "its config has no width of a head"),
    ],
)
def test_what_cannot_be_narrowed_is_refused_with_the_reason(kind: str, family: str, config: Any, reason: str):
    model = built(family, **config)
    with pytest.raises(RecipeError, match=reason):
        parts_of(kind, Anatomy(model), model.config)


def test_a_gate_makes_any_activation_zero():
    model = built("llama", hidden_act="sigmoid")
    assert len(parts_of("channels", Anatomy(model), model.config)) == 2


def test_a_number_that_transformers_does_not_take_is_refused():
    """Llama's config wants the hidden width to be a multiple of the heads, whatever their own width."""
    config = built("llama", num_attention_heads=4, num_key_value_heads=4).config
    with pytest.raises(RecipeError, match="transformers takes no llama model of 3 heads"):
        config_with(config, "heads", 3)
    config = built("mistral", num_attention_heads=4, num_key_value_heads=4).config
    assert config_with(config, "heads", 3) == {"head_dim": 8, "num_key_value_heads": 3, "num_attention_heads": 3}
