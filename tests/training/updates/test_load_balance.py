"""Load balance: the term by its formula, which tokens count, and that a step is the same however its rows are divided."""

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
from lorakit.tasks.batching import IDLE
from lorakit.training.hooks import TrainState
from lorakit.training.updates.load_balance import preferences, token_weights

MIXTURE = ("adapter.method=lora_moe", "adapter.options={experts: 3}", "adapter.dropout=0", "adapter.targets=[all]")
BALANCED = (*MIXTURE, "adapter.updates=[load_balance]", "adapter.update_options={weight: 0.5}")
STATE = TrainState(total_steps=12, steps_per_epoch=6)
ROWS = range(6)


def shares_by_hand(logits: torch.Tensor, text: torch.Tensor, top_k: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """f and P (E,), each the mean over rows of the mean over their text."""
    f, p = np.zeros(logits.shape[-1]), np.zeros(logits.shape[-1])
    for row, mask in zip(logits.detach().double().numpy(), text.bool().numpy(), strict=True):
        for token in row[mask]:
            p += np.exp(token) / np.exp(token).sum() / mask.sum() / len(logits)
            for e in np.argsort(-token)[: top_k or 1]:
                f[e] += 1 / mask.sum() / (top_k or 1) / len(logits)
    return f, p


@pytest.mark.parametrize("top_k", [0, 1, 2])
def test_rows_count_once_and_padding_never(top_k: int) -> None:
    torch.manual_seed(0)
    logits, batch = torch.randn(3, 5, 4, dtype=torch.float64), {"labels": torch.zeros(3)}
    text = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool)
    chances = logits.flatten(0, 1).softmax(dim=-1)
    expected = shares_by_hand(logits, text, top_k)
    for given in (
        logits,
        logits.flatten(0, 1),
        logits[:, None],
    ):  # some models flatten rows and tokens, or put an axis between
        weights = token_weights(given, text, batch).double() / 3
        assert_close(weights @ preferences(chances, top_k), torch.from_numpy(expected[0]))
        assert_close(weights @ chances, torch.from_numpy(expected[1]))
    first = token_weights(logits[:, :2], text[:, :2] | True, batch)
    assert_close(first, torch.full((6,), 0.5))


def test_windows_of_a_row_share_its_one() -> None:
    text, windows = torch.ones(3, 2, dtype=torch.bool), {"labels": torch.zeros(2), "window_of": torch.tensor([0, 0, 1])}
    each = token_weights(torch.zeros(3, 2, 4), text, windows)
    assert_close(each, torch.tensor([0.25, 0.25, 0.25, 0.25, 0.5, 0.5]))
    twice = token_weights(torch.zeros(6, 2, 4), text.repeat(2, 1), windows)
    assert_close(twice, each.repeat(2) / 2)


@pytest.fixture
def training(bench: Bench, tmp_path: Path) -> Any:
    training = bench.prepare(tmp_path, *BALANCED)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in training.adapted.trained():
            tensor.parameter.add_(0.1 * torch.randn(tensor.parameter.shape, generator=draw))
    training.call("on_train_begin")
    return training


def test_a_loss_has_the_mean_over_sites_with_the_shares_of_the_step_before(training: Any) -> None:
    adapted, batch, (update,) = training.adapted, training.loader.encoded.collate(ROWS), training.hooks
    assert not batch["attention_mask"].all()
    logits: dict[str, torch.Tensor] = {}
    for name, adapter in adapted.adapters.items():
        adapted.model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name, delta=adapter.delta: logits.update({name: args[0] @ delta.R.T})
        )
    plain = training.objective.summed(adapted.model, batch)
    found = {name: shares_by_hand(each, batch["attention_mask"]) for name, each in logits.items()}
    assert found.keys() == adapted.adapters.keys()
    assert_close(training.loss(adapted.model, batch), plain + 6 * 0.5)  # f is 1 / E at first, and the P sum to 1
    update.after_step(STATE)
    for name, (f, _) in found.items():
        assert_close(update.shares[name], torch.from_numpy(f).float())
    terms = [3 * float(f @ p) for f, p in found.values()]
    assert_close(training.loss(adapted.model, batch), plain + 6 * 0.5 * np.mean(terms), rtol=1e-5, atol=1e-6)
    kept = dict(update.shares)
    adapted.switch([])
    assert torch.equal(training.loss(adapted.model, batch), training.objective.summed(adapted.model, batch))
    update.after_trial_step()
    update.after_step(STATE)
    assert all(torch.equal(update.shares[name], share) for name, share in kept.items())
    assert all(adapter.delta.listener is None for adapter in adapted.adapters.values())


def test_a_step_is_the_same_however_its_rows_are_divided(training: Any) -> None:
    """Gradients and the next shares; what a process without rows computes counts nothing."""
    (update,), encoded, found = training.hooks, training.loader.encoded, []
    update.shares = {name: torch.tensor([0.7, 0.2, 0.1]) for name in update.shares}
    idle = {**encoded.collate([3]), IDLE: torch.ones(1, dtype=torch.bool)}
    for parts in ([ROWS], [ROWS[:1], ROWS[1:4], ROWS[4:]]):
        training.optimizer.zero_grad()
        for part in parts:
            training.loss(training.adapted.model, encoded.collate(part)).backward()
        training.loss(training.adapted.model, idle)
        gradients = [tensor.parameter.grad.clone() for tensor in training.adapted.trained()]
        found.append((gradients, [seen.clone() for seen in update.seen.values()]))
        update.after_trial_step()
    assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert_close(torch.stack(found[0][1]).sum(dim=1), torch.full((len(update.seen),), 6.0))


def test_a_router_that_is_asked_twice_is_balanced_over_both(training: Any) -> None:
    """ALBERT's layers are all one: its sites' tokens are those of every pass through it."""
    (update,), batch, model = training.hooks, training.loader.encoded.collate(ROWS), training.adapted.model
    delta, draw = update.mixtures[name := next(iter(update.mixtures))], torch.Generator().manual_seed(2)
    both = [torch.randn(*batch["input_ids"].shape, 3, generator=draw) for _ in range(2)]
    update.mixtures = {name: delta}

    def asked(model: Any, batch: Any) -> torch.Tensor:
        for logits in both:
            delta.listener(logits)
        return torch.zeros(())

    update.text.mask = batch["attention_mask"].bool()
    update.shares[name] = torch.tensor([0.7, 0.2, 0.1])
    (f, p), (g, q) = (shares_by_hand(logits, batch["attention_mask"]) for logits in both)
    expected = 6 * 0.5 * 3 * float(np.array([0.7, 0.2, 0.1]) @ (p + q)) / 2
    assert float(update.around_loss(asked)(model, batch)) == pytest.approx(expected, rel=1e-5)
    update.after_step(STATE)
    assert_close(update.shares[name], torch.from_numpy((f + g) / 2).float())


def test_a_preferred_expert_becomes_less_probable(training: Any) -> None:
    (update,), batch = training.hooks, training.loader.encoded.collate(ROWS)
    update.text.mask = batch["attention_mask"].bool()
    name = next(iter(update.mixtures))
    update.shares[name] = torch.tensor([1.0, 0.0, 0.0])
    logits = torch.zeros(*batch["input_ids"].shape, 3, requires_grad=True)
    update.term(name, logits, batch).backward()
    of_text = logits.grad[update.text.mask]
    assert (of_text[:, 0] > 0).all()
    assert (of_text[:, 1:] < 0).all()
    assert not logits.grad[~update.text.mask].any()


def test_layers_that_recompute_give_the_same_gradients(training: Any) -> None:
    model, batch, found, passes = training.adapted.model.train(), training.loader.encoded.collate(ROWS), [], []
    (update,) = training.hooks
    update.shares = {name: torch.tensor([0.7, 0.2, 0.1]) for name in update.shares}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    delta = next(iter(update.mixtures.values()))
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
