"""PEFT's starts on the same model and the same rows: the same part of W moves into the adapter, and the same function trains.

Signs and rotations of singular vectors are free, so products and subspaces are compared. Where PEFT rewrites the frozen weight, ours stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import peft
import pytest
import torch
from accelerate import Accelerator
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.incremental_pca import IncrementalPCA
from support.adapters.cases import Fresh, adapt, backward, batch_for, evaluated
from support.thinned import thinned
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.attach import attach
from lorakit.adapters.init import inits
from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.backbone.load import Backbone
from lorakit.recipe.schema import AdapterSection
from lorakit.training.objective import Objective
from lorakit.workflow.calibrate import MEASURES, Statistics

RANK, ALPHA = 8, 12.0
FAMILIES = ("bert", "gpt2", "llama")
SETTINGS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "corda_ipm": {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="ipm")},
    "corda_kpm": {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="kpm")},
    "lora_ga": {"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig(), "use_rslora": True},
    "eva": {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=1.0)},
}
# PEFT's OLoRA decomposes a Conv1D's weight as it is stored, (in x out), and fails where that is not square
POINTS = [(m, f) for m in SETTINGS for f in FAMILIES if (m, f) != ("olora", "gpt2")]
Batch = Mapping[str, torch.Tensor]


def rows(number: int) -> Batch:
    """Rows of 60 random tokens; where there are several, all but the first are padded."""
    tokens = torch.randint(4, 60, (number, 60), generator=torch.Generator().manual_seed(11))
    mask = (torch.arange(60) < torch.arange(60, 60 - 7 * number, -7)[:, None]).long()
    return {"input_ids": tokens * mask, "attention_mask": mask, "labels": torch.arange(number) % 3}


def data_for(method: str) -> Batch:
    """PEFT's CorDA can take but one row at a time, and weighs rows by their largest entries."""
    return rows(1 if method.startswith("corda") else 6)


def statistics(backbone: Backbone, method: str, sites: Any) -> Statistics:
    needs = inits.get(method).needs
    if needs not in MEASURES:
        return {site.name: {} for site in sites}
    return MEASURES[needs](backbone.model, sites, [data_for(method)], Objective(Accelerator(cpu=True), False))


def ours(fresh: Fresh, family: str, method: str) -> tuple[AdaptedModel, Statistics]:
    backbone = fresh(family)
    sites = backbone.anatomy.select(["all"])
    section = AdapterSection(method=method, rank=RANK, alpha=ALPHA)
    told = statistics(fresh(family), method, sites)
    return attach(backbone, sites, resolve(section), shortcut_spec(section), statistics=told), told


def theirs(fresh: Fresh, family: str, method: str, targets: list[str]) -> Any:
    """PEFT's own start."""
    model = fresh(family).model
    inputs = {name: tensor for name, tensor in data_for(method).items() if name != "labels"}
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=targets,
        fan_in_fan_out=family == "gpt2",
        **SETTINGS[method],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method.startswith("corda"):
            preprocess_corda(model, config, run_model=lambda: model(**inputs))
        elif method == "lora_ga":
            preprocess_loraga(model, config, partial(one_step, model))
        twin = peft.get_peft_model(model, config)
        if method == "eva":
            with mock.patch.object(IncrementalPCA, "_svd_fn_lowrank", exact):
                initialize_lora_eva_weights(twin, [inputs], show_progress_bar=False)
    return twin.base_model.model.eval()


def exact(pca: IncrementalPCA, x: torch.Tensor) -> Any:
    """In place of the randomised SVD, whose directions are good to a few hundredths."""
    return torch.linalg.svd(x, full_matrices=False)


def one_step(model: Any) -> None:
    """The gradient of the mean loss, without dropout."""
    model.eval()
    batch = dict(data_for("lora_ga"))
    labels = batch.pop("labels")
    logits = model(**batch).logits
    (-logits.log_softmax(dim=-1)[range(len(labels)), labels].mean()).backward()


def factors(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """PEFT's B and A."""
    return module.lora_B["default"].weight, module.lora_A["default"].weight


def base_weight(module: Any) -> torch.Tensor:
    """PEFT's frozen weight, (out x in)."""
    weight: torch.Tensor = module.base_layer.weight.detach()
    return weight.T if isinstance(module.base_layer, Conv1D) else weight


def close(found: torch.Tensor, expected: torch.Tensor, zero: float = 0.0) -> None:
    """Equal but for a thousandth of the largest entry: singular vectors in float32 are no better; below ``zero`` all is noise."""
    assert_close(found, expected, rtol=0, atol=max(1e-3 * float(expected.abs().max()), zero))


def same_product(adapter: Adapter, b: torch.Tensor, a: torch.Tensor, told: Mapping[str, torch.Tensor]) -> None:
    close(adapter.delta.live.dense().detach(), b @ a)


def same_balance(adapter: Adapter, b: torch.Tensor, a: torch.Tensor, told: Mapping[str, torch.Tensor]) -> None:
    same_product(adapter, b, a, told)
    close((adapter.delta.live.A.T @ adapter.delta.live.A).detach(), a.T @ a)


def same_directions(adapter: Adapter, b: torch.Tensor, a: torch.Tensor, told: Mapping[str, torch.Tensor]) -> None:
    """EVA: A spans the same space, B is zero."""
    close((adapter.delta.A.T @ adapter.delta.A).detach(), a.T @ a)
    assert not adapter.delta.B.any()
    assert not b.any()


def same_gradient_part(adapter: Adapter, b: torch.Tensor, a: torch.Tensor, told: Mapping[str, torch.Tensor]) -> None:
    """LoRA-GA: the same directions, each of the paper's length; PEFT's B has the gradient's singular values in it, its A length one.

    A and B come from different triplets, so that the signs of their product are free. The gradient of the last layer has few
    directions (one a row, or a label): what lies beyond is noise, which the gradient itself does not see.
    """
    gradient, squared = told["gradient"], adapter.site.out_features**0.5 / 16
    live, told_apart = adapter.delta.live, b.norm(dim=0) > 1e-4 * torch.linalg.matrix_norm(gradient, 2)
    close((gradient @ live.A.T @ live.A).detach(), squared * gradient @ a.T @ a)
    own, unit = live.B.detach()[:, told_apart], (b / b.norm(dim=0))[:, told_apart]
    close(own @ own.T, squared * unit @ unit.T)


SAME: dict[str, Callable[[Adapter, torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]], None]] = {
    "pissa": same_balance,
    "olora": same_balance,
    "corda_ipm": same_product,
    "corda_kpm": same_product,
    "lora_ga": same_gradient_part,
    "eva": same_directions,
}


@pytest.mark.parametrize(("method", "family"), POINTS)
def test_the_same_start(fresh: Fresh, method: str, family: str) -> None:
    adapted, told = ours(fresh, family, method)
    twin = theirs(fresh, family, method, list(adapted.adapters))
    for name, adapter in adapted.adapters.items():
        module = twin.get_submodule(name)
        b, a = (factor.detach() for factor in factors(module))
        assert adapter.scale == module.scaling["default"]
        SAME[method](adapter, b, a, told[name])
        assert_close(base_weight(module) + adapter.scale * b @ a, adapter.base_weight(), rtol=1e-4, atol=1e-5)
    batch = batch_for(adapted.model)
    assert_close(evaluated(twin, batch), evaluated(adapted.model, batch), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("method", "family"), thinned(POINTS, 3))
def test_the_same_function_and_gradients_from_their_start(fresh: Fresh, method: str, family: str) -> None:
    """Their start as ours, both moved alike: W + s (B A - B0 A0) against their rewritten weight with s B A."""
    adapted = adapt(fresh(family), AdapterSection(method=method, rank=RANK, alpha=ALPHA))
    twin = theirs(fresh, family, method, list(adapted.adapters))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, adapter in adapted.adapters.items():
            for key, theirs_now in zip("BA", factors(twin.get_submodule(name)), strict=True):
                tensors = {own: tensor for own, tensor, _ in adapter.tensors()}
                tensors.get(f"start.{key}", tensors[key]).copy_(theirs_now)
                theirs_now.add_(0.1 * torch.randn(theirs_now.shape, generator=generator))
                tensors[key].copy_(theirs_now)
    batch = batch_for(adapted.model)
    pretrained = evaluated(fresh(family).model, batch)
    assert not torch.allclose(evaluated(twin, batch), pretrained, rtol=1e-2, atol=1e-2)
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-3, atol=1e-4)
    backward(adapted.model, batch)
    backward(twin, batch)
    for name, adapter in adapted.adapters.items():
        own = {key: tensor for key, tensor, _ in adapter.trained_tensors()}
        for key, expected in zip("BA", factors(twin.get_submodule(name)), strict=True):
            close(own[key].grad, expected.grad)
