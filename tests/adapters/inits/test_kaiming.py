"""LoRA's code: A is what ``nn.Linear`` starts with, U(-1/sqrt(in), 1/sqrt(in)); B is zero."""

from __future__ import annotations

import math

import torch

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site


def test_bounds_and_spread() -> None:
    delta = deltas.get("low_rank")(Site("m", 0, "q", 400, 30, "linear"), 50)
    inits.get("kaiming")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(0)))
    bound = 1 / math.sqrt(400)
    assert delta.A.abs().max() <= bound
    assert abs(float(delta.A.detach().std()) / (bound / math.sqrt(3)) - 1) < 0.02
    assert abs(float(delta.A.detach().mean())) < 4 * bound / math.sqrt(3 * 20_000)
    assert not delta.B.any()


def test_it_draws_from_its_own_stream_alone() -> None:
    site = Site("m", 0, "q", 8, 6, "linear")
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        delta = deltas.get("low_rank")(site, 2)
        inits.get("kaiming")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(seed)))
        drawn.append(delta.A.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)
