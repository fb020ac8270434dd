"""Two factors that are both there, and whose product is zero; spread as PEFT's."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site


def started(rank: int, seed: int = 0) -> Delta:
    delta: Delta = deltas.get("low_rank")(Site("m", 0, "q", 2000, 1000, "linear"), rank)
    inits.get("orthogonal")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(seed)))
    return delta


@pytest.mark.parametrize(("rank", "in_a"), [(8, 4), (5, 3), (1, 1)])
def test_b_reads_other_directions_than_a_writes(rank: int, in_a: int) -> None:
    delta = started(rank)
    assert_close(delta.B @ delta.A, torch.zeros(1000, 2000), rtol=0, atol=1e-6)
    assert torch.linalg.matrix_rank(delta.A) == in_a
    assert torch.linalg.matrix_rank(delta.B) == rank - in_a


def test_peft_spreads_them_alike() -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, target_modules=["0"], init_lora_weights="orthogonal")
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(2000, 1000)), config).base_model.model[0]
    delta = started(8)
    for ours, weight in ((delta.A, theirs.lora_A["default"].weight), (delta.B, theirs.lora_B["default"].weight)):
        assert ours.shape == weight.shape
        for values in (ours.detach(), weight.detach()):
            singular = torch.linalg.svdvals(values)
            expected = 0.1 * max(values.shape) ** 0.5  # of normal numbers / 10, many more than the rank
            assert_close(singular[:4], torch.full((4,), expected), rtol=0.1, atol=0)
            assert_close(singular[4:], torch.zeros(4), rtol=0, atol=1e-4)


def test_it_draws_from_its_own_stream_alone() -> None:
    before = torch.get_rng_state()
    assert torch.equal(started(4, seed=1).A, started(4, seed=1).A)
    assert not torch.equal(started(4, seed=1).A, started(4, seed=2).A)
    assert torch.equal(torch.get_rng_state(), before)
