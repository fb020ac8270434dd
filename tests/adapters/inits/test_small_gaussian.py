"""AdaLoRA's start: A and B ~ N(0, 0.02^2), as in PEFT."""

from __future__ import annotations

import peft
import torch
from scipy.stats import kstest
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site


def test_it_is_the_normal_distribution_of_deviation_0_02() -> None:
    delta = deltas.get("diagonal")(Site("m", 0, "q", 2000, 1500, "linear"), 16)
    inits.get("small_gaussian")(delta, InitContext(None, 1.0, torch.Generator().manual_seed(0)))
    for tensor in (delta.A, delta.B):
        assert kstest(tensor.detach().flatten().numpy() / 0.02, "norm").pvalue > 0.01
    assert not delta.g.any()


def test_peft_has_the_same_deviation() -> None:
    torch.manual_seed(0)
    config = peft.AdaLoraConfig(init_r=16, target_r=8, total_step=10, target_modules=["0"])
    layer = peft.get_peft_model(nn.Sequential(nn.Linear(2000, 1500)), config).base_model.model[0]
    for tensor in (layer.lora_A["default"], layer.lora_B["default"]):
        assert abs(float(tensor.detach().std()) / 0.02 - 1) < 0.02
    assert not layer.lora_E["default"].any()
