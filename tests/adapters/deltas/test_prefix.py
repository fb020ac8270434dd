"""A prefix's keys and values, head by head, in front of a layer's own."""

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.prefix import Prefix
from lorakit.backbone.site import Site

SITE = Site("layer.0.prefix", 0, "prefix", 6, 4, "layer")


def prefix(**options: float) -> Prefix:
    made = Prefix(SITE, 3, options)
    made.put_at_start(torch.Generator().manual_seed(0))
    return made


def test_token_by_token_and_head_by_head() -> None:
    delta = prefix()
    keys, values = torch.randn(5, 2, 7, 3), torch.randn(5, 2, 7, 2)
    longer_keys, longer_values = delta.in_front(keys, values)
    assert longer_keys.shape == (5, 2, 10, 3)
    assert longer_values.shape == (5, 2, 10, 2)
    for row in range(5):
        for head in range(2):
            for token in range(3):
                key, value = delta.keys[token], delta.values[token]
                assert torch.equal(longer_keys[row, head, token], key[3 * head : 3 * head + 3])
                assert torch.equal(longer_values[row, head, token], value[2 * head : 2 * head + 2])
            assert torch.equal(longer_keys[row, head, 3:], keys[row, head])
            assert torch.equal(longer_values[row, head, 3:], values[row, head])


def test_takes_the_states_dtype() -> None:
    states = torch.zeros(1, 2, 4, 3, dtype=torch.bfloat16), torch.zeros(1, 2, 4, 2, dtype=torch.bfloat16)
    assert {longer.dtype for longer in prefix().in_front(*states)} == {torch.bfloat16}


def test_gradients() -> None:
    delta = prefix().double()
    query, key, value = (torch.randn(1, 2, 4, width, dtype=torch.float64) for width in (3, 3, 2))

    def attention(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        with torch.nn.utils.stateless._reparametrize_module(delta, {"keys": keys, "values": values}):
            longer_keys, longer_values = delta.in_front(key, value)
        return (query @ longer_keys.transpose(2, 3)).softmax(-1) @ longer_values

    assert torch.autograd.gradcheck(attention, (delta.keys, delta.values))


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_starts_normal(std: float) -> None:
    wide = Prefix(Site("0.prefix", 0, "prefix", 100, 100, "layer"), 100, {"std": std})
    wide.put_at_start(torch.Generator().manual_seed(0))
    for tensor in (wide.keys, wide.values):
        assert_close(tensor.std().item(), std, rtol=0.02, atol=0)
        assert_close(tensor.mean().item(), 0.0, rtol=0, atol=0.03 * std)
