"""Pieces from a bank against softmax mixtures written out by hand, in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.bank import Bank
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 6, 9, "linear")
OPTIONS = {"vectors": 5, "length": 3, "top": 2}
SCALE = 1.7


@pytest.fixture
def delta() -> Bank:
    torch.manual_seed(0)
    shared = Shared(Bank.shared_shapes([SITE], 4, OPTIONS), Bank).double()
    built = Bank(SITE, 4, OPTIONS, shared).double()
    for parameter in (*built.parameters(), *shared.parameters()):
        torch.nn.init.normal_(parameter)
    return built


def piece(logits: list[float], bank: torch.Tensor) -> torch.Tensor:
    """The two rows with the largest logits, each with e^logit over the sum of both."""
    first, second = sorted(range(len(logits)), key=lambda k: -logits[k])[:2]
    e, f = math.exp(logits[first]), math.exp(logits[second])
    return (e * bank[first] + f * bank[second]) / (e + f)


def by_hand(delta: Bank) -> tuple[torch.Tensor, torch.Tensor]:
    bank = delta.shared.get_parameter("bank").detach()
    a = torch.stack([torch.cat([piece(delta.A[r, t].tolist(), bank) for t in range(2)]) for r in range(4)])
    b = torch.stack([torch.cat([piece(delta.B[t, r].tolist(), bank) for t in range(3)]) for r in range(4)], dim=1)
    return b, a


def test_shapes(delta: Bank) -> None:
    assert Bank.shapes(SITE, 4, OPTIONS) == {"A": (4, 2, 5), "B": (3, 4, 5)}
    assert Bank.shared_shapes([SITE], 4, OPTIONS) == {"bank": (5, 3)}
    assert all(p.shape[Bank.rank_axes[name]] == 4 for name, p in delta.named_parameters())


def test_forward_is_the_dense_product(delta: Bank) -> None:
    b, a = by_hand(delta)
    assert (b.shape, a.shape) == ((9, 4), (4, 6))
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("or,ri,bti->bto", b, a, x))
    assert_close(delta.dense(), b @ a)
    assert_close(delta.factors(), (b, a))


def test_gradients_are_those_of_finite_differences(delta: Bank) -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    bank = delta.shared.get_parameter("bank")

    def forward(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return delta(x, SCALE)

    assert torch.autograd.gradcheck(forward, (x, delta.A, delta.B, bank))


def test_only_chosen_vectors_get_gradients(delta: Bank) -> None:
    delta(torch.randn(2, 6, dtype=torch.float64), SCALE).sum().backward()
    for logits in (delta.A, delta.B):
        assert ((logits.grad != 0).sum(dim=-1) == 2).all()
        assert torch.equal(
            logits.grad.ne(0).nonzero()[:, -1].view(-1, 2), logits.topk(2).indices.view(-1, 2).sort().values
        )


def test_a_refusal_names_the_lengths_that_fit() -> None:
    assert Bank.refusal(SITE, 4, OPTIONS) == ""
    assert Bank.refusal(Site("m", 0, "q", 384, 1536, "linear"), 4) == ""
    assert "would do" in Bank.refusal(SITE, 4, OPTIONS | {"length": 2})
    assert "3, 1 would do" in Bank.refusal(SITE, 4, OPTIONS | {"length": 2})
    assert "has 5" in Bank.misfit(4, OPTIONS | {"top": 6})
