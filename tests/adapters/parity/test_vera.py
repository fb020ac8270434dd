"""PEFT's VeRA with the same matrices and vectors: the same logits, the same gradients, the same start."""

from __future__ import annotations

import warnings
from typing import Any

import peft
import pytest
import torch
from scipy.stats import kstest
from support.adapters.cases import FAMILIES, Fresh, adapt, backward, batch_for, disturb, evaluated
from torch.testing import assert_close

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import AdapterSection

RANK = 6


def peft_twin(adapted: AdaptedModel, model: torch.nn.Module) -> Any:
    """PEFT on the same pretrained model and the same modules."""
    conv1d = any(site.kind == "conv1d" for site in adapted.sites)
    config = peft.VeraConfig(r=RANK, target_modules=list(adapted.adapters), fan_in_fan_out=conv1d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model with Linear and Conv1D: PEFT sets fan_in_fan_out itself
        return peft.get_peft_model(model, config).base_model.model.eval()


def theirs(twin: Any, site: str, key: str) -> torch.nn.Parameter:
    return getattr(twin.get_submodule(site), f"vera_lambda_{key}")["default"]


@pytest.mark.parametrize("family", FAMILIES)
def test_same_weights_same_logits_and_gradients(fresh: Fresh, family: str) -> None:
    adapted = adapt(fresh(family), AdapterSection(method="vera", rank=RANK))
    disturb(adapted)
    twin = peft_twin(adapted, fresh(family).model)
    (shared,) = adapted.shared.values()
    projections = twin.get_submodule(next(iter(adapted.adapters)))
    with torch.no_grad():
        for key, matrix, _ in shared.tensors():
            getattr(projections, f"vera_{key}")["default"].copy_(matrix)  # one buffer for all of PEFT's layers
        for name, adapter in adapted.adapters.items():
            for key, vector, _ in adapter.tensors():
                theirs(twin, name, key).copy_(vector)
    batch = batch_for(adapted.model)

    assert (
        len({(site.in_features, site.out_features) for site in adapted.sites}) > 1
    )  # so that parts of A and B are taken
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, batch)
    backward(twin, batch)
    for name, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            expected = theirs(twin, name, key).grad
            assert expected.any()
            assert_close(tensor.grad, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))


def test_same_start(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="vera", rank=RANK))
    twin = peft_twin(adapted, fresh("bert").model)
    for name, adapter in adapted.adapters.items():
        for key, vector, _ in adapter.tensors():
            assert torch.equal(vector, theirs(twin, name, key))


def test_same_distribution_of_the_shared_matrices(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="vera", rank=RANK))
    projections = peft_twin(adapted, fresh("bert").model).get_submodule(next(iter(adapted.adapters)))
    (shared,) = adapted.shared.values()
    for key, matrix, _ in shared.tensors():
        peer = getattr(projections, f"vera_{key}")["default"]
        assert matrix.shape == peer.shape
        bound = (6 / matrix.shape[1]) ** 0.5
        for drawn in (matrix.detach(), peer):
            assert kstest(drawn.flatten().numpy(), "uniform", args=(-bound, 2 * bound)).pvalue > 0.01


def test_same_number_of_parameters(fresh: Fresh) -> None:
    adapted = adapt(fresh("llama"), AdapterSection(method="vera", rank=RANK))
    twin = peft_twin(adapted, fresh("llama").model)
    counted = sum(p.numel() for name, p in twin.named_parameters() if "vera_lambda" in name and p.requires_grad)
    assert adapted.adapter_parameters() == counted
