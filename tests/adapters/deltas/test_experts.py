"""Mixtures of low-rank experts against each token's sum by hand, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.experts import Experts
from lorakit.adapters.deltas.heads import Heads
from lorakit.adapters.mixture import LowRankMixture
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 6, 9, "linear")
RANK, SCALE = 2, 1.7


def build(kind: type[LowRankMixture], **options: int) -> LowRankMixture:
    torch.manual_seed(0)
    delta = kind(SITE, RANK, {"experts": 3, **options}).double()
    for parameter in delta.parameters():
        torch.nn.init.normal_(parameter)
    return delta


def by_hand(delta: LowRankMixture, x: torch.Tensor, kept: int) -> torch.Tensor:
    """``sum_e p_e B_e A_e x``, token by token."""
    rows = []
    for token in x.reshape(-1, 6):
        logits = delta.R.detach() @ token
        chosen = sorted(range(3), key=lambda e: -float(logits[e]))[:kept]
        exponents = {e: float(logits[e].exp()) for e in chosen}
        total = torch.zeros(9, dtype=torch.float64)
        for e in chosen:
            own = slice(RANK * e, RANK * (e + 1))
            a = delta.A.detach()[own] if isinstance(delta, Experts) else delta.A.detach()
            total += exponents[e] / sum(exponents.values()) * delta.B.detach()[:, own] @ (a @ token)
        rows.append(SCALE * total)
    return torch.stack(rows).view(*x.shape[:-1], 9)


@pytest.mark.parametrize("kind", [Experts, Heads])
@pytest.mark.parametrize("top_k", [0, 1, 2, 3])
def test_every_token_has_its_own_sum(kind: type[LowRankMixture], top_k: int) -> None:
    delta = build(kind, top_k=top_k)
    for shape in ((6,), (4, 6), (2, 4, 6)):
        x = torch.randn(shape, dtype=torch.float64)
        assert_close(delta(x, SCALE), by_hand(delta, x, top_k or 3))


@pytest.mark.parametrize("kind", [Experts, Heads])
@pytest.mark.parametrize("top_k", [0, 2])
def test_gradients_are_those_of_finite_differences(kind: type[LowRankMixture], top_k: int) -> None:
    delta = build(kind, top_k=top_k)
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *tensors: delta(x, SCALE), (x, *delta.parameters()))


def test_a_router_that_does_not_choose_is_a_lora_of_the_experts_mean() -> None:
    delta = build(Experts)
    torch.nn.init.zeros_(delta.R)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE / 3 * x @ delta.A.T @ delta.B.T)


def test_more_experts_for_a_token_than_there_are_is_refused() -> None:
    assert Experts.misfit(RANK, {"experts": 3, "top_k": 3}) == ""
    assert "top_k=4" in Experts.misfit(RANK, {"experts": 3, "top_k": 4})


@pytest.mark.parametrize(
    ("kind", "count"), [(Experts, 3 * RANK * (6 + 9) + 3 * 6), (Heads, RANK * 6 + 3 * RANK * 9 + 3 * 6)]
)
def test_counts(kind: type[LowRankMixture], count: int) -> None:
    assert sum(torch.Size(shape).numel() for shape in kind.shapes(SITE, RANK, {"experts": 3}).values()) == count
