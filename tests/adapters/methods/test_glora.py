"""GLoRA (Chavan et al. 2023): five tensors, each in one of several forms; the paper's table says what each form costs."""

import itertools

import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, disturb, evaluated, logits, merged
from support.adapters.contract import contract
from support.adapters.glora_by_hand import cost
from torch.testing import assert_close

from lorakit.adapters.attach import attach
from lorakit.adapters.counting import costs
from lorakit.adapters.method import resolve
from lorakit.recipe.schema import AdapterSection

ALL = {
    "A": ("lora", "vector", "scalar", "none"),
    "B": ("lora", "vector", "scalar", "none"),
    "C": ("lora", "vector", "none"),
    "D": ("vector", "scalar", "none"),
    "E": ("vector", "scalar", "none"),
}


test_contract = contract("glora", parameters=lambda site: cost(site))
test_contract_of_a_supernet = contract(
    "glora", every=4, parameters=lambda site: cost(site), families=("bert", "llama"), options={"mode": "supernet"}
)
VECTORS = {"A": "vector", "B": "vector", "C": "vector", "D": "scalar", "E": "scalar"}
test_contract_of_vectors = contract(  # not where a norm takes a constant shift away again: its gradient is zero
    "glora", every=4, parameters=lambda site: cost(site, **VECTORS), families=("bert", "gpt2", "llama"), options=VECTORS
)
SCALARS = {"A": "scalar", "B": "scalar", "C": "none", "D": "none", "E": "vector"}
test_contract_of_scalars = contract(
    "glora", every=4, parameters=lambda site: cost(site, **SCALARS), families=("bert", "gpt2"), options=SCALARS
)


@pytest.fixture(scope="module")
def every_configuration() -> list[dict[str, str]]:
    return [dict(zip(ALL, chosen, strict=True)) for chosen in itertools.product(*ALL.values())]


def test_there_are_432_configurations_and_each_costs_what_the_table_says(fresh, every_configuration) -> None:
    sites = [*fresh("bert", shared=True).anatomy.sites[:2], fresh("llama", shared=True).anatomy.sites[0]]
    assert len(every_configuration) == 432
    assert [site.bias for site in sites] == [True, True, False]
    for chosen in every_configuration:
        spec = resolve(AdapterSection(method="glora", rank=3, options=chosen))
        assert costs(sites, spec, spec) == {site.name: cost(site, **chosen) for site in sites}


def test_every_configuration_starts_as_the_pretrained_model_and_merges_exactly(
    fresh: Fresh, every_configuration
) -> None:
    pretrained = fresh("bert", shared=True).model
    batch = batch_for(pretrained)
    spec = resolve(AdapterSection(method="glora", rank=3))
    backbone = fresh("bert")
    sites = backbone.anatomy.sites
    for start in range(0, len(every_configuration), len(sites)):  # a configuration for each site: all are seen
        chosen = dict(zip([s.name for s in sites], every_configuration[start : start + len(sites)], strict=False))
        adapted = attach(fresh("bert"), sites, spec, spec, options=chosen)
        assert torch.equal(logits(adapted.model, batch), logits(pretrained, batch))
        disturb(adapted)
        with torch.no_grad():
            for tensor in adapted.trained():  # scalars and vectors of B weigh a whole row
                if tensor.name.endswith("Bd") and tensor.parameter.ndim == 1:
                    tensor.parameter.mul_(0.1)
        assert_close(
            evaluated(adapted.model, batch), evaluated(merged(pretrained, adapted), batch), rtol=1e-4, atol=1e-5
        )


def test_folding_uses_the_weight_from_before_merging(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="glora", rank=3))
    disturb(adapted)
    batch = batch_for(adapted.model)
    before = evaluated(adapted.model, batch)
    name, adapter = next(iter(adapted.adapters.items()))
    t = {key: tensor.detach().clone() for key, tensor, _ in adapter.tensors()}
    w, b = (p.detach().clone() for p in (adapter.base.weight, adapter.base.bias))
    expected_bias = b + b * t["D"] + t["E"] + w @ (t["Cd"] @ t["Cu"])[:, 0]
    for each in adapted.adapters.values():
        each.fold()
    module = adapted.model.get_submodule(name)
    assert_close(module.bias, expected_bias, rtol=1e-5, atol=1e-6)
    assert_close(module.weight, w + w * (t["Ad"] @ t["Au"]) + t["Bd"] @ t["Bu"], rtol=1e-5, atol=1e-6)
    assert_close(evaluated(adapted.model, batch), before, rtol=1e-4, atol=1e-5)
