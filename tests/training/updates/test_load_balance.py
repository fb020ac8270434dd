"""Load balance: the term by its formula, which tokens count, and that it is there in training alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import Bench
from torch.testing import assert_close

import lorakit
from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.errors import RecipeError
from lorakit.training.hooks import TrainState
from lorakit.training.updates.load_balance import imbalance

MIXTURE = ("adapter.method=lora_moe", "adapter.options={experts: 3}", "adapter.dropout=0")
BALANCED = (*MIXTURE, "adapter.updates=[load_balance]", "adapter.update_options={weight: 0.5}")
STATE = TrainState(total_steps=12, steps_per_epoch=6)


def by_hand(logits: torch.Tensor, top_k: int, text: torch.Tensor) -> float:
    """E sum_e f_e P_e, token by token."""
    f, p = np.zeros(logits.shape[-1]), np.zeros(logits.shape[-1])
    tokens = logits.detach().double().numpy()[text.bool().numpy()]
    for token in tokens:
        p += np.exp(token) / np.exp(token).sum() / len(tokens)
        for e in np.argsort(-token)[: top_k or 1]:
            f[e] += 1 / len(tokens) / (top_k or 1)
    return len(f) * float(f @ p)


@pytest.mark.parametrize("top_k", [0, 1, 2])
def test_the_term_is_the_papers(top_k: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 4, dtype=torch.float64)
    text = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    expected = torch.tensor(by_hand(logits, top_k, text), dtype=torch.float64)
    assert_close(imbalance(logits, top_k, text), expected)
    assert_close(imbalance(logits.flatten(0, 1), top_k, text), expected)
    first = torch.tensor(by_hand(logits[:, :2], top_k, text[:, :2]), dtype=torch.float64)
    assert_close(imbalance(logits[:, :2], top_k, text), first)


def test_it_is_1_where_experts_are_preferred_equally_and_e_where_one_is_by_all() -> None:
    each, one = torch.eye(4) * 50, torch.eye(4)[:1].expand(8, 4) * 50
    assert_close(imbalance(each, 0), torch.tensor(1.0))
    logits = one.clone().requires_grad_()
    assert_close(imbalance(logits, 0), torch.tensor(4.0))
    imbalance(logits / 50, 0).backward()
    assert (logits.grad[:, 0] > 0).all()  # a step down makes the preferred one less probable
    assert (logits.grad[:, 1:] < 0).all()


@pytest.fixture
def training(bench: Bench, tmp_path: Path) -> Any:
    training = bench.prepare(tmp_path, *BALANCED)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in training.adapted.trained():
            tensor.parameter.add_(0.1 * torch.randn(tensor.parameter.shape, generator=draw))
    training.call("on_train_begin")
    return training


def test_a_loss_has_the_mean_over_sites_for_each_row(training: Any) -> None:
    adapted, batch = training.adapted, training.loader.encoded.collate(range(6))
    assert not batch["attention_mask"].all()
    logits: dict[str, torch.Tensor] = {}
    for name, adapter in adapted.adapters.items():
        adapted.model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name, delta=adapter.delta: logits.update({name: args[0] @ delta.R.T})
        )
    plain = training.objective.summed(adapted.model, batch)
    terms = [by_hand(each, 0, batch["attention_mask"]) for each in logits.values()]
    assert len(terms) == len(adapted.adapters)
    assert_close(training.loss(adapted.model, batch), plain + 6 * 0.5 * np.mean(terms), rtol=1e-5, atol=1e-6)
    adapted.switch(list(adapted.adapters)[:1])
    plain = training.objective.summed(adapted.model, batch)
    assert_close(training.loss(adapted.model, batch), plain + 6 * 0.5 * terms[0], rtol=1e-5, atol=1e-6)
    adapted.switch([])
    assert torch.equal(training.loss(adapted.model, batch), training.objective.summed(adapted.model, batch))
    assert all(adapter.delta.listener is None for adapter in adapted.adapters.values())


def test_layers_that_recompute_give_the_same_gradients(training: Any) -> None:
    model, batch, found, passes = training.adapted.model.train(), training.loader.encoded.collate(range(6)), [], []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    delta = next(iter(training.adapted.adapters.values())).delta
    delta.register_forward_hook(lambda *_: passes.append(1))
    for _ in range(2):
        training.optimizer.zero_grad()
        training.loss(model, batch).backward()
        found.append([tensor.parameter.grad.clone() for tensor in training.adapted.trained()])
        recompute_layers(training.adapted)
    assert len(passes) == 1 + 2
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        (("adapter.method=lora",), "adapter.updates", "has none"),
        (("adapter.method=mixlora",), "adapter.updates", "has none"),
        (("adapter.method=lora_moe", "adapter.trainable=A+B"), "adapter.trainable", "none trains"),
    ],
)
def test_without_routers_of_tokens_it_is_refused(bench: Bench, settings: tuple[str, ...], key: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        lorakit.plan(bench.load(*settings, "adapter.updates=[load_balance]"))
    assert [problem.key for problem in caught.value.problems] == [key]
