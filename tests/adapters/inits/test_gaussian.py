"""LoRA's paper with PEFT's deviation: A ~ N(0, 1/rank^2), B zero."""

from __future__ import annotations

import peft
import torch
from scipy.stats import kstest
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site

RANK = 16


def test_it_is_the_normal_distribution_of_deviation_one_over_rank() -> None:
    delta = deltas.get("low_rank")(Site("m", 0, "q", 2000, 30, "linear"), RANK)
    inits.get("gaussian")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(0)))
    assert kstest(delta.A.detach().flatten().numpy() * RANK, "norm").pvalue > 0.01
    assert not delta.B.any()


def test_peft_has_the_same_deviation() -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=RANK, target_modules=["0"], init_lora_weights="gaussian")
    theirs = (
        peft.get_peft_model(nn.Sequential(nn.Linear(2000, 30)), config).base_model.model[0].lora_A["default"].weight
    )
    assert abs(float(theirs.detach().std()) * RANK - 1) < 0.02
