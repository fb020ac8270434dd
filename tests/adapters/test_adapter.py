"""One adapter on one module: the decomposed forward against its formula, numerics in low precision, dropout, dtype."""

from __future__ import annotations

import copy

import pytest
import torch
from support.adapters.one_adapter import INSIDE, OUTSIDE, RANK, build, weight_of
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.method import resolve
from lorakit.adapters.switching import DROPPED, ON
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_the_forward_and_its_gradients_follow_the_formula(kind: str, bias: bool, method: str) -> None:
    """LoRA: (W + sBA) x + b. DoRA: m (W + sBA) x / sg(|W + sBA|) + b, the norm by output row and not differentiated."""
    base, adapter = build(kind, bias=bias, method=method)
    x = torch.randn(2, 4, INSIDE, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 4, OUTSIDE, dtype=torch.float64)
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor, _ in adapter.tensors()}
    twin = x.detach().clone().requires_grad_()

    weight = weight_of(base) + 5.0 / 3.0 * tensors["B"] @ tensors["A"]
    if method == "dora":
        weight = (tensors["magnitude"] / torch.linalg.vector_norm(weight.detach(), dim=1))[:, None] * weight
    expected = F.linear(twin, weight, base.bias)
    assert_close(base(x), expected)

    (base(x) * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_close(x.grad, twin.grad)
    for name, tensor, _ in adapter.tensors():
        assert_close(tensor.grad, tensors[name].grad, msg=name)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_lora_gradients_are_those_of_finite_differences(kind: str) -> None:
    base, adapter = build(kind)
    x = torch.randn(3, INSIDE, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, {"adapter.delta.A": a, "adapter.delta.B": b}, (x,))

    assert torch.autograd.gradcheck(forward, (x, adapter.delta.A, adapter.delta.B))


def test_dora_gradients_with_the_norm_held_fixed_are_those_of_finite_differences() -> None:
    """What is not differentiated must not move while a tensor is nudged, so the norm is pinned where it stands."""
    base, adapter = build(method="dora")
    norms = adapter.row_norms()
    adapter.row_norms = lambda: norms  # type: ignore[method-assign]
    x = torch.randn(3, INSIDE, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        tensors = {"adapter.delta.A": a, "adapter.delta.B": b, "adapter.magnitude": m}
        return torch.func.functional_call(base, tensors, (x,))

    assert torch.autograd.gradcheck(forward, (x, adapter.delta.A, adapter.delta.B, adapter.magnitude))


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
def test_row_norms_keep_fp32_precision_under_autocast_and_over_half_weights(frozen: torch.dtype) -> None:
    base, adapter = build(method="dora", dtype=frozen)
    exact = torch.linalg.vector_norm(
        base.weight.double() + 5 / 3 * adapter.delta.B.double() @ adapter.delta.A.double(), dim=1
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(adapter.row_norms().double(), exact, rtol=1e-5, atol=0)


def test_a_zero_row_of_the_weight_gives_no_nan() -> None:
    base, adapter = build(method="dora", dtype=torch.float32)
    with torch.no_grad():
        base.weight[2] = 0
        adapter.delta.B.zero_()
    plain = copy.deepcopy(base)
    plain.__dict__.pop("forward")
    adapter.switch(DROPPED)
    fresh = Adapter(adapter.site, adapter.spec, RANK, base)
    fresh.switch(ON)
    x = torch.randn(3, INSIDE)
    assert torch.equal(base(x), plain(x))
    assert_close(fresh.effective_weight(base.weight), base.weight)
    base(x).sum().backward()
    assert all(tensor.grad.isfinite().all() for _, tensor, _ in fresh.trained_tensors())


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_effective_weight_is_rounded_once(method: str, dtype: torch.dtype) -> None:
    _, adapter = build(method=method, dtype=torch.float32)
    weight = torch.randn(OUTSIDE, INSIDE).to(dtype)
    wide = adapter.effective_weight(weight.double())
    assert adapter.effective_weight(weight).dtype == dtype
    assert_close(
        adapter.effective_weight(weight),
        wide.to(dtype),
        rtol=torch.finfo(dtype).eps if dtype != torch.float64 else 0,
        atol=0,
    )


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_dropout_touches_the_low_rank_path_alone_and_only_in_training(method: str) -> None:
    """With B = 0 the path is silent, so the module is the pretrained one whatever is dropped; with B it is LoRA on F.dropout(x)."""
    base, adapter = build(method=method, dropout=0.5, dtype=torch.float32)
    x = torch.randn(4, INSIDE)
    base.eval()
    assert torch.equal(base(x), base(x))
    base.train()
    torch.manual_seed(1)
    out = base(x)
    torch.manual_seed(1)
    dropped = F.dropout(x, 0.5)
    weight = F.linear(x, base.weight, base.bias)
    update = 5 / 3 * dropped @ adapter.delta.A.T @ adapter.delta.B.T
    if method == "dora":
        norm = torch.linalg.vector_norm(base.weight + 5 / 3 * adapter.delta.B @ adapter.delta.A, dim=1)
        expected = adapter.magnitude / norm * (weight - base.bias + update) + base.bias
    else:
        expected = weight + update
    assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_changes_nothing_until_any_of_its_effect_moves(method: str) -> None:
    base, _ = build(method=method, dtype=torch.float32)
    spec = resolve(AdapterSection(method=method, rank=RANK))
    for _, _, moved in Adapter(Site("m", 0, "q", INSIDE, OUTSIDE, "linear"), spec, RANK, base).tensors():
        adapter = Adapter(Site("m", 0, "q", INSIDE, OUTSIDE, "linear"), spec, RANK, base)
        assert adapter.changes_nothing()
        with torch.no_grad():
            next(tensor for _, tensor, role in adapter.tensors() if role == moved).add_(0.1)
        assert adapter.changes_nothing() == (moved == "A")  # A alone has no effect while B is zero
