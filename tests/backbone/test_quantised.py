"""Quantised weights: the numbers of the papers' formulas, products with them and gradients through them, and how a backbone gets them."""

from __future__ import annotations

import copy
import sys
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.dense_again import make_dense
from lorakit.backbone.quantised import (
    KINDS,
    Quantisation,
    QuantisedLinear,
    number_count,
    quantised_modules,
    weight_leaves,
)
from lorakit.errors import RecipeError

# Dettmers et al. 2023, appendix E
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def in_nf4(weight: torch.Tensor) -> torch.Tensor:
    """Each number as the nearest of the 16, times the largest of its 64."""
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    table = torch.tensor(NF4)
    nearest = ((blocks / largest)[..., None] - table).abs().argmin(dim=-1)
    return (table[nearest] * largest).reshape(weight.shape)


def in_int8(weight: torch.Tensor) -> torch.Tensor:
    """Each row in 127 steps to its largest number, up and down."""
    largest = weight.abs().amax(dim=1, keepdim=True)
    return (weight / largest * 127).round() / 127 * largest


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")


def layer(kind: str, *, double: bool = False, bias: bool = True, compute_dtype=None) -> tuple[nn.Linear, torch.Tensor]:
    """A quantised layer of 40 x 96, and the weight that it had."""
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias).requires_grad_(False)
    weight = linear.weight.detach().clone()
    Quantisation(kind, double=double, compute_dtype=compute_dtype).quantise(linear)
    return linear, weight


@pytest.mark.parametrize(("kind", "formula"), [("nf4", in_nf4), ("int8", in_int8)])
def test_weights_are_rounded_as_the_papers_say(kind, formula):
    linear, weight = layer(kind)
    torch.testing.assert_close(linear.weight, formula(weight), rtol=1e-5, atol=1e-7)


def test_double_quantisation_moves_the_scales_alone():
    """By at most half a step of what 8 bits tell apart in 256 of them."""
    single, double = layer("nf4")[0].weight, layer("nf4", double=True)[0].weight
    assert torch.equal(single == 0, double == 0)
    moved = (double / single)[single != 0]
    assert not torch.equal(single, double)
    assert (moved - 1).abs().max() < 0.1


@pytest.mark.parametrize(("kind", "double", "bits"), [("int8", False, 8.4), ("nf4", False, 4.6), ("nf4", True, 4.2)])
def test_bits_a_number(kind, double, bits):
    linear = nn.Linear(256, 256, bias=False).requires_grad_(False)
    Quantisation(kind, double=double).quantise(linear)
    tables = 4 * (16 + 256 + 1) + 4  # nf4's own and that of its scales
    used = sum(buffer.nbytes for buffer in linear.buffers())
    assert 8 * (used - tables) / 256**2 < bits
    assert number_count(linear) == 256**2


def test_a_row_of_zeros_stays_one():
    linear = nn.Linear(64, 4).requires_grad_(False)
    linear.weight[1] = 0
    Quantisation("int8").quantise(linear)
    assert not linear.weight[1].any()
    assert torch.isfinite(linear.weight).all()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", KINDS)
def test_product_and_gradient_are_those_of_the_dense_weight(kind, mode):
    linear, _ = layer(kind)
    getattr(linear, mode)()
    weight, bias = linear.weight, linear.bias
    x = torch.randn(3, 5, 96, requires_grad=True)
    twin = x.detach().clone().requires_grad_(True)
    out, expected = linear(x), F.linear(twin, weight, bias)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(linear(x), out)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_dense_is_kept_for_the_way_back(kind):
    linear, _ = layer(kind)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda tensor: None):
        linear(torch.randn(2, 96, requires_grad=True))
    assert torch.Size((40, 96)) not in kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_trains(kind):
    linear, _ = layer(kind)
    linear.bias.requires_grad_(True)
    linear(torch.randn(2, 3, 96)).sum().backward()
    torch.testing.assert_close(linear.bias.grad, torch.full((40,), 6.0))


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_computes_in(kind):
    linear, _ = layer(kind)
    x = torch.randn(4, 96)
    exact = linear(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16
    half, _ = layer(kind, compute_dtype=torch.bfloat16)
    assert half(x).dtype == torch.float32
    torch.testing.assert_close(half(x), exact, rtol=0.05, atol=0.05)
    assert not torch.equal(half(x), exact)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_and_a_stored_state_are_the_same(kind):
    linear, _ = layer(kind, double=kind == "nf4")
    x = torch.randn(4, 96)
    assert torch.equal(copy.deepcopy(linear)(x), linear(x))
    other = nn.Linear(96, 40).requires_grad_(False)
    Quantisation(kind, double=kind == "nf4").quantise(other)
    assert not torch.equal(other(x), linear(x))
    other.load_state_dict(linear.state_dict())
    assert torch.equal(other(x), linear(x))


@pytest.mark.parametrize("kind", KINDS)
def test_made_dense_it_is_a_plain_linear_of_the_same_function(kind):
    linear, _ = layer(kind)
    x = torch.randn(4, 96)
    before = linear(x)
    make_dense(nn.ModuleList([linear]))
    assert type(linear) is nn.Linear
    assert set(linear.state_dict()) == {"weight", "bias"}
    torch.testing.assert_close(linear(x), before, rtol=1e-6, atol=1e-6)


def test_gradients_of_quantised_weights_can_be_asked_for():
    linear, _ = layer("nf4")
    x = torch.randn(4, 96)
    with weight_leaves([linear]) as (weight,):
        weight.requires_grad_(True)
        (gradient,) = torch.autograd.grad(linear(x).sum(), [weight])
    torch.testing.assert_close(gradient, x.sum(dim=0).expand(40, 96))
    assert linear.leaf is None


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_layers_projections_alone_are_quantised(family, tiny, load):
    plain, backbone = load(tiny(family)), load(tiny(family), quantization="nf4")
    quantised = {name for name, module in backbone.model.named_modules() if isinstance(module, QuantisedLinear)}
    assert quantised == {site.name for site in backbone.anatomy.sites}
    assert number_count(backbone.model) == number_count(plain.model)
    for name, parameter in backbone.model.named_parameters():
        assert torch.equal(parameter, plain.model.get_parameter(name)), name
    for name in quantised:
        torch.testing.assert_close(
            backbone.model.get_submodule(name).weight, in_nf4(plain.model.get_submodule(name).weight)
        )
    assert any("quantised to nf4" in note for note in backbone.notes)


def test_the_anatomy_of_a_quantised_model_is_the_same(tiny, load):
    backbone = load(tiny("llama"), quantization="int8")
    assert Anatomy(backbone.model).sites == backbone.anatomy.sites


def test_what_has_no_linear_modules_is_refused(tiny, load):
    with pytest.raises(RecipeError, match="no layer of this gpt2 model has a plain Linear") as caught:
        load(tiny("gpt2"), quantization="nf4")
    assert caught.value.problems[0].key == "model.quantization"


def test_without_the_library_one_message_says_how_to_get_it(tiny, load):
    with mock.patch("importlib.util.find_spec", return_value=None), pytest.raises(RecipeError) as caught:
        load(tiny("bert"), quantization="nf4")
    (problem,) = caught.value.problems
    assert problem.key == "model.quantization"
    assert problem.valid == "none, int4, mixed, without it"
    assert problem.hint == "pip install 'lorakit[quantized]'"


def test_a_plain_base_needs_no_library(tiny, load):
    with mock.patch.dict(sys.modules, {"bitsandbytes": None}):  # an import of it fails
        loaded = load(tiny("bert"))
    assert not list(quantised_modules(loaded.model))


def test_groups_of_four_bits_need_no_library(tiny, load):
    nowhere = mock.patch("importlib.util.find_spec", return_value=None)
    with mock.patch.dict(sys.modules, {"bitsandbytes": None}), nowhere:
        loaded = load(tiny("bert"), quantization="int4", quantization_group=16)
    modules = list(quantised_modules(loaded.model))
    assert {module.scale.shape[1] for module in modules} == {2, 3}  # widths of 32 and 48
    assert {module.codes.shape[2] for module in modules} == {8}
