"""Fast dropout: its distribution, its stream, attention by the formula, and everything else left to torch and transformers."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.models import tiny_model
from support.runs import Bench
from torch import nn
from torch.testing import assert_close
from transformers import AttentionInterface, AutoModelForSequenceClassification

from lorakit.training import dropout
from lorakit.training.dropout import Dropout, attend, fast_dropout, noise

N = 1_000_000


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_dropped_as_often_as_asked(p: float, dtype: torch.dtype):
    torch.manual_seed(0)
    drawn = noise(torch.zeros(1000, N // 1000, dtype=dtype), p)
    assert (drawn.dtype, drawn.shape) == (dtype, (1000, N // 1000))
    dropped = (drawn == 0).double()
    sigma = math.sqrt(p * (1 - p) / N)
    assert abs(float(dropped.mean()) - p) < 5 * sigma + 0.5 / dropout.LANES
    exact = round(p * dropout.LANES) / dropout.LANES
    assert drawn.unique().tolist() == [0, float(torch.tensor(1 / (1 - exact), dtype=dtype))]
    flat = dropped.flatten() - dropped.mean()
    for lag in (1, 2, 3, 4, 1000):  # within a 64-bit number of the generator, and beyond
        assert abs(float((flat[:-lag] * flat[lag:]).mean())) < 5 * p * (1 - p) / math.sqrt(N)


def test_the_stream_is_torchs():
    """What is saved and put back with torch's state comes again; what is not differs."""
    x = torch.zeros(7, 9)
    state = torch.get_rng_state()
    first, second = noise(x, 0.5), noise(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(noise(x, 0.5), first)
    assert not torch.equal(first, second)


def test_small_and_large_rates_are_never_none_or_all():
    assert 0 < float((noise(torch.zeros(N), 1e-6) == 0).double().mean()) < 1e-4
    assert 0 < float((noise(torch.zeros(N), 1 - 1e-6) != 0).double().mean()) < 1e-4


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing_is_torchs(p: float):
    module = nn.Dropout(p)
    module.__class__ = Dropout
    assert torch.equal(module(torch.ones(5)), torch.full((5,), 1 - p))


def states(seed: int = 0, heads: int = 2, length: int = 6) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(3, heads, length, 4, requires_grad=True) for _ in range(3)]


def masks() -> dict[str, torch.Tensor | None]:
    seen = torch.ones(3, 1, 6, 6, dtype=torch.bool)
    seen[1, ..., 4:] = False
    return {
        "none": None,
        "true where seen": seen,
        "added": torch.zeros(3, 1, 6, 6).masked_fill(~seen, torch.finfo(torch.float32).min),
    }


@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
def test_attention_is_the_formula(mask: torch.Tensor | None):
    """(softmax(Q K^T / sqrt(d) + mask) * noise) V, and its gradients by autograd."""
    module: Any = SimpleNamespace(is_causal=False)
    query, key, value = states()
    torch.manual_seed(5)
    found, _ = attend(module, query, key, value, mask, dropout=0.3)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / 2
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    torch.manual_seed(5)
    weights = scores.softmax(-1) * noise(scores, 0.3)
    expected = torch.einsum("bhqk,bhkd->bqhd", weights, value)
    assert_close(found, expected)
    grads = [torch.autograd.grad(out.square().sum(), (query, key, value)) for out in (found, expected)]
    assert_close(*grads)


@pytest.mark.parametrize(
    ("case", "given"),
    [("no dropout", {}), ("causal", {"dropout": 0.3, "is_causal": True}), ("grouped", {"dropout": 0.3, "groups": 2})],
)
def test_the_rest_is_transformers(case: str, given: dict[str, Any]):
    """Without dropout, and where keys are shared or unseen without a mask: the same numbers, and draws, as sdpa's."""
    groups = given.pop("groups", 1)
    module: Any = SimpleNamespace(is_causal=False, num_key_value_groups=groups)
    query = states(heads=2)[0]
    _, key, value = states(heads=2 // groups)
    outputs = []
    for function in (attend, AttentionInterface()["sdpa"]):
        torch.manual_seed(5)
        outputs.append(function(module, query, key, value, None, **given)[0])
    assert torch.equal(*outputs)


def test_a_model_in_evaluation_is_as_it_was(tmp_path, bench: Bench):
    path = tiny_model("bert", tmp_path / "model")
    plain, faster = (AutoModelForSequenceClassification.from_pretrained(path) for _ in range(2))
    fast_dropout(faster)
    assert sum(isinstance(module, Dropout) for module in faster.modules()) > 2
    ids = torch.randint(5, 20, (4, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [7], [3], [9]])).long()
    for model in (plain, faster):
        model.classifier.load_state_dict(plain.classifier.state_dict())
        model.eval()
    outputs = [model(input_ids=ids, attention_mask=mask).logits for model in (plain, faster)]
    assert torch.equal(*outputs)
    faster.train()
    assert not torch.equal(faster(input_ids=ids, attention_mask=mask).logits, outputs[0])


def test_a_prefix_keeps_its_attention(bench: Bench, tmp_path):
    training = bench.prepare(tmp_path, "adapter.method=prefix_tuning", "adapter.dropout=0")
    names = {m.config._attn_implementation for m in dropout.attention_modules(training.adapted.model)}
    assert names == {"lorakit_prefix_sdpa"}
