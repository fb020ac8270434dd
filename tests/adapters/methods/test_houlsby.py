"""Houlsby et al. 2019: 2 m d + d + m parameters an adapter, two adapters a layer, nothing that could be merged."""

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated
from support.adapters.contract import contract
from torch.nn import functional as F

from lorakit.adapters.method import methods
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

test_contract = contract("houlsby", parameters=lambda m, inside, outside: 2 * m * outside + outside + m)
test_contract_with_relu = contract(
    "houlsby",
    every=4,
    parameters=lambda m, inside, outside: 2 * m * outside + outside + m,
    families=("llama",),
    rank=40,  # wider than the layer
    options={"activation": "relu"},
)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt_postnorm"])
def test_two_adapters_a_layer(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="houlsby"), targets=methods.get("houlsby").targets)
    assert [(site.layer, site.role) for site in adapted.sites] == [(0, "o"), (0, "down"), (1, "o"), (1, "down")]


def test_it_sits_before_the_residual_addition_and_the_norm(fresh: Fresh) -> None:
    """BERT: LayerNorm(x + dense(h) + adapter(dense(h)))."""
    adapted = adapt(fresh("bert"), AdapterSection(method="houlsby", rank=4), targets=["down"])
    disturb(adapted)
    output = adapted.model.bert.encoder.layer[0].output
    delta = next(iter(adapted.adapters.values())).delta
    generator = torch.Generator().manual_seed(0)
    h, x = torch.randn(2, 48, generator=generator), torch.randn(2, 32, generator=generator)
    y = h @ output.dense.weight.T + output.dense.bias
    y = y + F.gelu(y @ delta.D.T + delta.b_down) @ delta.U.T + delta.b_up
    expected = F.layer_norm(x + y, (32,), output.LayerNorm.weight, output.LayerNorm.bias, output.LayerNorm.eps)
    torch.testing.assert_close(output.eval()(h, x), expected)


def test_activations_differ_and_others_are_refused(fresh: Fresh) -> None:
    outputs = []
    for activation in ("gelu", "relu", "silu"):
        adapted = adapt(fresh("bert"), AdapterSection(method="houlsby", rank=4, options={"activation": activation}))
        disturb(adapted)
        outputs.append(evaluated(adapted.model, batch_for(adapted.model)))
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    with pytest.raises(RecipeError, match="activation"):
        adapt(fresh("bert"), AdapterSection(method="houlsby", options={"activation": "sine"}))


@pytest.mark.parametrize(
    "axis", [{"dropout": 0.1}, {"scale": "lora"}, {"decomposition": "magnitude"}, {"trainable": "A"}]
)
def test_what_does_not_go_with_a_bottleneck_is_refused(fresh: Fresh, axis: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        adapt(fresh("bert"), AdapterSection(method="houlsby", **axis))  # type: ignore[arg-type]
