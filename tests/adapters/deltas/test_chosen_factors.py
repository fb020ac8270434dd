"""Factors that a row chooses, against the choice by hand, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.chosen_factors import ChosenFactors
from lorakit.backbone.site import Site
from lorakit.errors import RunError

SITE = Site("m", 0, "q", 6, 9, "linear")
EXPERTS, RANK, SCALE = 5, 2, 1.7
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)


@pytest.fixture
def delta() -> ChosenFactors:
    torch.manual_seed(0)
    built = ChosenFactors(SITE, RANK, {"experts": EXPERTS}).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    built.row_mask.mask = MASK
    return built


def taken(logits: torch.Tensor) -> list[tuple[int, float]]:
    """(place, weight) of the largest two."""
    places = sorted(range(EXPERTS), key=lambda e: -float(logits[e]))[:RANK]
    chances = logits[places].softmax(dim=0)
    return [(place, float(RANK * chance)) for place, chance in zip(places, chances, strict=True)]


def by_hand(delta: ChosenFactors, rows: torch.Tensor) -> torch.Tensor:
    t = {name: tensor.detach() for name, tensor in delta.named_parameters()}
    out = []
    for row, mask in zip(rows, MASK, strict=True):
        h = row[mask].mean(dim=0)
        a = [weight * t["A"][e] for e, weight in taken(t["R_A"] @ h)]
        sums = (t["R_B"] @ h).softmax(dim=0)
        for slot, factor in enumerate(a):
            sums = sums + (t["R_AB"][:, 6 * slot : 6 * (slot + 1)] @ factor).softmax(dim=0)
        b = [weight * t["B"][e] for e, weight in taken(sums)]
        dense = sum(torch.outer(bj, aj) for bj, aj in zip(b, a, strict=True))
        out.append(SCALE * row @ dense.T)
    return torch.stack(out)


def test_every_row_has_the_lora_it_chooses(delta: ChosenFactors) -> None:
    rows = torch.randn(3, 4, 6, dtype=torch.float64)
    expected = by_hand(delta, rows)
    assert_close(delta(rows, SCALE), expected)
    assert_close(delta(rows.flatten(0, 1), SCALE), expected.flatten(0, 1))


def test_gradients_are_those_of_finite_differences(delta: ChosenFactors) -> None:
    rows = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *tensors: delta(x, SCALE), (rows, *delta.parameters()))


def test_routers_that_do_not_choose_give_a_plain_lora(delta: ChosenFactors) -> None:
    with torch.no_grad():
        for name in ("R_A", "R_B", "R_AB"):
            delta.get_parameter(name).zero_()
    rows = torch.randn(3, 4, 6, dtype=torch.float64)
    chosen = torch.zeros(EXPERTS, dtype=torch.float64).topk(RANK).indices  # of equal ones
    plain = SCALE * rows @ delta.A[chosen].T @ delta.B[chosen]
    assert_close(delta(rows, SCALE), plain)


def test_tokens_without_their_rows_are_refused(delta: ChosenFactors) -> None:
    with pytest.raises(RunError, match="whole rows"):
        delta(torch.randn(3, 1, 6, dtype=torch.float64), SCALE)


def test_more_factors_than_there_are_are_refused() -> None:
    assert ChosenFactors.misfit(5, {"experts": 5}) == ""
    assert "6 factors" in ChosenFactors.misfit(6, {"experts": 5})
