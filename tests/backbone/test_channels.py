"""The MLPs of every family: their width in the config, what a channel has, and models that cannot have fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from support.models import FAMILIES

from lorakit.backbone.anatomy import Anatomy, family_of
from lorakit.backbone.channels import mlps, narrow
from lorakit.errors import RecipeError

KNOWN = [family for family in FAMILIES if family != "mpnet"]


def built(family: str, **config: Any) -> Any:
    name, arguments, _ = FAMILIES[family]
    with torch.device("meta"):
        settings = getattr(transformers, name)(**arguments | config)
        return transformers.AutoModelForSequenceClassification.from_config(settings)


@pytest.mark.parametrize("family", KNOWN)
def test_a_model_of_the_narrowed_config_lacks_the_channels_and_nothing_else(family: str):
    model = built(family)
    found = mlps(Anatomy(model), model.config)
    assert [mlp.width for mlp in found] == [48, 48]
    before = model.num_parameters()
    narrow(model.config, 13)
    again = transformers.AutoModelForSequenceClassification.from_config(model.config)
    assert before - again.num_parameters() == (48 - 13) * sum(mlp.numbers for mlp in found)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for mlp in found:
        for name, axis in mlp.cuts():
            shapes[name][axis] = 13
    assert shapes == {name: list(tensor.shape) for name, tensor in again.state_dict().items()}


def test_what_cannot_be_narrowed_is_refused_with_the_reason():
    model = built("mpnet")
    assert family_of("mpnet") is None
    with pytest.raises(RecipeError, match="its family is not known"):
        mlps(Anatomy(model), model.config)
    model = built("bert", hidden_act="sigmoid")  # sigmoid(0) = 1/2
    with pytest.raises(RecipeError, match="activation sigmoid is not 0 at 0"):
        mlps(Anatomy(model), model.config)
    model = built("llama", hidden_act="sigmoid")  # times 0
    assert len(mlps(Anatomy(model), model.config)) == 2
