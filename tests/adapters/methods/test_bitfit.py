"""BitFit (Ben Zaken et al. 2022): every bias, and a refusal where there is none."""

from __future__ import annotations

import pytest
from support.adapters.cases import FAMILIES, Fresh, adapt
from support.adapters.contract import contract

from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

WITH_BIASES = tuple(family for family in FAMILIES if family != "llama")

test_contract = contract("bitfit", parameters=lambda site: site.out_features, families=WITH_BIASES)


def test_a_model_without_biases_is_refused(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="llama model has no bias to train"):
        adapt(fresh("llama"), AdapterSection(method="bitfit"))


@pytest.mark.parametrize("family", [*WITH_BIASES, "deberta"])
def test_exactly_the_biases_train(fresh: Fresh, family: str) -> None:
    backbone = fresh(family)
    head = set(backbone.new_parts)
    biases = {name for name, _ in backbone.model.named_parameters() if name.endswith("bias")} - head
    adapted = adapt(backbone, AdapterSection(method="bitfit"))
    assert {tensor.name for tensor in adapted.trained()} == biases | head
    assert all(tensor.role == "bias" for tensor in adapted.trained() if tensor.site)
