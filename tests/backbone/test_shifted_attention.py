"""S2-Attn against dense attention under a mask that is made from the definition, entry by entry."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaModel

from lorakit.backbone.shifted_attention import GROUP, ShiftedAttention, attend

LENGTHS = (11, 4, 8)


def sees(query: int, key: int, head: int, heads: int, length: int, group: int, *, causal: bool) -> bool:
    """Whether a token of a row of ``length`` tokens sees another one."""
    if key >= length or (causal and key > query):
        return False
    first = 0 if head < heads // 2 else group - group // 2  # the other heads' groups begin half a group later
    return length <= group or (query + first) // group == (key + first) // group


def dense(states: list[torch.Tensor], lengths: Any, group: int, *, causal: bool) -> np.ndarray:
    """softmax(Q K^T / sqrt d + mask) V, (rows, tokens, heads, width); what is padding is nan."""
    query, key, value = (each.double().numpy() for each in states)
    rows, heads, tokens, width = query.shape
    repeats = heads // key.shape[1]
    out = np.full((rows, tokens, heads, width), np.nan)
    for row in range(rows):
        for head in range(heads):
            for token in range(lengths[row]):
                seen = [k for k in range(tokens) if sees(token, k, head, heads, lengths[row], group, causal=causal)]
                logits = key[row, head // repeats, seen] @ query[row, head, token] / np.sqrt(width)
                weights = np.exp(logits - logits.max())
                out[row, token, head] = weights / weights.sum() @ value[row, head // repeats, seen]
    return out


def module_with(group: int, *, causal: bool) -> Any:
    module: Any = nn.Module()
    module.config, module.is_causal, module.num_key_value_groups = SimpleNamespace(**{GROUP: group}), causal, 1
    return module


def drawn(heads: int, groups: int, rows: int, tokens: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, number, tokens, 6, generator=generator) for number in (heads, groups, groups)]


def mask_of(lengths: Any, tokens: int, kind: str, *, causal: bool) -> torch.Tensor:
    """The model's own, as sdpa (bool) or eager attention (added) is given it."""
    allowed = (torch.arange(tokens) < torch.tensor(lengths)[:, None])[:, None, None].expand(-1, 1, tokens, tokens)
    allowed = allowed.tril() if causal else allowed
    if kind == "bool":
        return allowed
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("kind", ["bool", "added"])
@pytest.mark.parametrize(("heads", "groups", "group"), [(4, 4, 4), (4, 2, 4), (3, 1, 5), (2, 2, 8), (4, 2, 2)])
def test_it_is_dense_attention_under_the_mask_of_the_definition(
    heads: int, groups: int, group: int, kind: str, causal: bool
):
    """Rows of other lengths in the batch, one of them shorter than a group, none a multiple of it; grouped queries, odd heads."""
    states = drawn(heads, groups, len(LENGTHS), 13)
    mask = mask_of(LENGTHS, 13, kind, causal=causal)
    out, _ = attend("sdpa", module_with(group, causal=causal), *states, mask, scaling=6**-0.5, dropout=0.0)
    expected = dense(states, LENGTHS, group, causal=causal)
    real = ~np.isnan(expected)
    assert out.isfinite().all()
    np.testing.assert_allclose(out.numpy()[real], expected[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize("group", [3, 4, 12])
def test_so_it_is_without_a_mask(group: int, causal: bool):
    states = drawn(4, 2, 2, 13)
    out, weights = attend("sdpa", module_with(group, causal=causal), *states, None, scaling=6**-0.5, dropout=0.0)
    assert weights is None
    np.testing.assert_allclose(out.numpy(), dense(states, (13, 13), group, causal=causal), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def llama() -> LlamaModel:
    """Two layers with four heads and two of keys; weights large enough for attention to matter."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    model = LlamaModel(LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, attn_implementation="sdpa"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def states(model: Any, tokens: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens, **given).last_hidden_state


def test_in_a_model(llama: Any):
    """Full attention with one group and in evaluation, to the bit; else another function, the same for a row alone and padded."""
    tokens = torch.randint(40, (2, 11), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    full = states(llama.eval(), tokens, attention_mask=mask)
    for group, same in ((11, True), (4, False)):
        shifted = ShiftedAttention(llama.layers, group)
        assert torch.equal(states(llama.eval(), tokens, attention_mask=mask), full)
        there = states(llama.train(), tokens, attention_mask=mask)
        assert torch.equal(there, full) == same
        assert_close(there[1, :7], states(llama, tokens[1:, :7])[0], rtol=1e-5, atol=1e-6)
        shifted.remove()
    assert torch.equal(states(llama, tokens, attention_mask=mask), full)  # and nothing is left of it
