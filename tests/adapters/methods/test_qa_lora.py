"""QA-LoRA (Xu et al. 2023): rank (in/g + out) parameters, and a merge that changes zero points alone."""

from __future__ import annotations

import copy

import pytest
import torch
from support.adapters.cases import Fresh, adapt, disturb
from support.adapters.contract import contract
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.conflicts import conflicts_with_base
from lorakit.adapters.method import resolve
from lorakit.backbone.int4 import dense_groups
from lorakit.backbone.quantised import Quantisation
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection, ModelSection

GROUP = 8
OPTIONS = {"group": str(GROUP)}

test_contract = contract(
    "qa_lora", parameters=lambda rank, inside, outside: rank * (inside // GROUP + outside), options=OPTIONS
)


def quantised_layer(inside: int = 48, dtype: torch.dtype = torch.float32, **section: str) -> tuple[nn.Linear, Adapter]:
    """An int4 layer of 40 outputs with a trained adapter on it."""
    torch.manual_seed(0)
    linear = nn.Linear(inside, 40).requires_grad_(False).to(dtype)
    Quantisation("int4", group=GROUP).quantise(linear)
    spec = resolve(AdapterSection(method="qa_lora", options=OPTIONS, rank=3, **section))
    adapter = Adapter(Site("m", 0, "q", inside, 40, "linear"), spec, 3, linear)
    linear.add_module("adapter", adapter)
    adapter.switch("on")
    nn.init.normal_(adapter.delta.B)
    return linear, adapter


@pytest.mark.parametrize("inside", [48, 44])  # the last group of 44 has 4
def test_the_merge_changes_zero_points_alone_and_is_exact(inside: int) -> None:
    linear, adapter = quantised_layer(inside)
    before = copy.deepcopy(dict(linear.named_buffers(recurse=False)))
    dense, x = linear.weight, torch.randn(5, inside)
    b, a, scale = adapter.delta.B.detach().clone(), adapter.delta.A.detach().clone(), adapter.scale
    with torch.no_grad():
        adapted = linear(x)
        assert adapter.fold_into_zero_points()
        merged = linear(x)
    assert torch.equal(linear.codes, before["codes"])
    assert torch.equal(linear.scale, before["scale"])
    assert_close(linear.zero, before["zero"] + scale / GROUP * b @ a, rtol=1e-6, atol=1e-7)
    assert not torch.equal(linear.zero, before["zero"])
    update = (scale / GROUP * b @ a).repeat_interleave(GROUP, dim=1)[:, :inside]
    assert_close(linear.weight, dense + update, rtol=1e-6, atol=1e-6)
    assert torch.equal(linear.weight, dense_groups(before["codes"], before["scale"], linear.zero, inside))
    assert_close(merged, adapted, rtol=1e-5, atol=1e-5)
    assert "forward" not in linear.__dict__


def test_it_reads_the_means_of_groups() -> None:
    linear, adapter = quantised_layer()
    base = nn.functional.linear(x := torch.randn(2, 7, 48), linear.weight, linear.bias)
    pooled = torch.stack([part.mean(dim=-1) for part in x.split(GROUP, dim=-1)], dim=-1)
    expected = base + adapter.scale * pooled @ adapter.delta.A.T @ adapter.delta.B.T
    assert_close(linear(x), expected, rtol=1e-5, atol=1e-5)


def test_other_updates_and_rescaled_ones_do_not_go_into_zero_points() -> None:
    linear, adapter = quantised_layer(decomposition="magnitude")
    zero = linear.zero.clone()
    assert not adapter.fold_into_zero_points()
    assert torch.equal(linear.zero, zero)
    spec = resolve(AdapterSection(rank=3))
    lora = Adapter(adapter.site, spec, 3, linear)
    assert not lora.fold_into_zero_points()


def test_any_width_is_counted_and_merges(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="qa_lora", rank=2))
    disturb(adapted)
    for adapter in adapted.adapters.values():  # widths of 32 and 48 in groups of 32
        site, delta = adapter.site, adapter.delta
        assert delta.A.shape == (2, -(-site.in_features // 32))
        x = torch.randn(3, site.in_features)
        assert_close(delta(x, 0.7), 0.7 * x @ delta.dense().T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "key"),
    [
        ({}, {}, "model.quantization"),
        ({"quantization": "nf4"}, {}, "model.quantization"),
        ({"quantization": "int4", "quantization_group": 64}, {}, "adapter.options"),
        ({"quantization": "int4"}, {"group": "64"}, "adapter.options"),
        ({"quantization": "int4", "quantization_group": 64}, {"group": "64"}, ""),
        ({"quantization": "int4"}, {}, ""),
    ],
)
def test_another_base_is_refused(model: dict[str, object], options: dict[str, str], key: str) -> None:
    spec = resolve(AdapterSection(method="qa_lora", options=options))
    found = conflicts_with_base(spec, ModelSection(name="any", **model))
    assert [problem.key for problem in found] == ([key] if key else [])
