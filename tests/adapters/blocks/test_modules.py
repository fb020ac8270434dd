"""Which modules' own parameters make a site, and where in the model it is."""

from __future__ import annotations

import pytest
from support.adapters.cases import FAMILIES, Fresh, adapt

from lorakit.adapters.block import blocks
from lorakit.adapters.blocks.modules import module_sites
from lorakit.recipe.schema import AdapterSection


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_name_existing_parameters_outside_the_head_once(fresh: Fresh, family: str) -> None:
    backbone = fresh(family, shared=True)
    sites = module_sites(backbone, "weights", lambda module, name: True)
    named = {f"{site.name}.{name}": shape for site in sites for name, shape in site.parameters}
    expected = {name: tuple(p.shape) for name, p in backbone.model.named_parameters() if name not in backbone.new_parts}
    assert named == expected
    assert list(named) == list(expected)


def test_layers_are_counted_from_the_input_and_what_is_in_none_is_minus_one(fresh: Fresh) -> None:
    layers = {site.name: site.layer for site in blocks.get("everything").sites(fresh("bert", shared=True))}
    assert layers["bert.embeddings.word_embeddings"] == -1
    assert layers["bert.encoder.layer.0.attention.self.query"] == 0
    assert layers["bert.encoder.layer.1.output.LayerNorm"] == 1
    assert layers["bert.pooler.dense"] == -1


@pytest.mark.parametrize("method", ["lora", "vera", "full"])
def test_adapters_that_are_there_already_are_no_sites(fresh: Fresh, method: str) -> None:
    backbone = fresh("bert")
    before = blocks.get("everything").sites(backbone)
    adapt(backbone, AdapterSection(method=method), shortcuts=["res1"] if method == "lora" else ()).switch([])
    assert blocks.get("everything").sites(backbone) == before


@pytest.mark.parametrize(("block", "parameters"), [("norms", {"weight", "bias"}), ("biases", {"bias"})])
def test_norms_and_biases_of_a_bert(fresh: Fresh, block: str, parameters: set[str]) -> None:
    sites = blocks.get(block).sites(fresh("bert", shared=True))
    assert {name for site in sites for name, _ in site.parameters} == parameters
    norms = [site.name for site in sites if site.name.endswith("LayerNorm")]
    assert len(norms) == 5  # one after the embeddings, two a layer
    assert (len(norms) == len(sites)) == (block == "norms")
