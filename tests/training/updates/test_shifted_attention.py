"""S2-Attn in a training: what it is of a batch, when it acts, and what it is refused with. Its arithmetic: tests/backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench
from support.thinned import thinned
from torch.testing import assert_close

import lorakit
from lorakit.errors import RecipeError
from lorakit.training.hooks import TrainState
from lorakit.training.updates.shifted_attention import FAMILIES, ShiftedSparseAttention

STATE = TrainState(total_steps=12, steps_per_epoch=6)
UPDATE = "adapter.updates=[shifted_attention]"


def training_with(bench: Bench, folder: Path, group: float, *overrides: str, family: str = "llama") -> Any:
    """A training without dropout, which would draw other masks for a row alone."""
    settings = (UPDATE, f"adapter.update_options={{group: {group}}}", "adapter.dropout=0", *overrides)
    training = bench.prepare(folder, *settings, family=family)
    for module in training.adapted.model.modules():
        for name in ("p", "dropout", "dropout_prob", "attention_dropout"):  # OPT and GPT-NeoX keep theirs as numbers
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return training


def inputs(training: Any, rows: Any = range(8)) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in training.loader.encoded.collate(rows).items() if name != "labels"}


@torch.no_grad()
def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).logits


@pytest.mark.parametrize("family", thinned(reversed(FAMILIES), 3))
def test_a_row_is_the_same_alone_and_evaluation_is_full_attention(bench: Bench, tmp_path: Path, family: str):
    training = training_with(bench, tmp_path, 4, family=family)
    model, batch = training.adapted.model, inputs(training)
    evaluated, shifted = logits(model.eval(), batch), logits(model.train(), batch)
    assert batch["attention_mask"].sum(dim=1).unique().numel() > 3
    alone = [{name: tensor[row : row + 1, :end] for name, tensor in batch.items()} for row, end in ends(batch)]
    assert_close(torch.cat([logits(model, row) for row in alone]), shifted, rtol=1e-4, atol=1e-6)
    assert (shifted - evaluated).abs().max() > 1e-4
    training.hooks[0].on_train_end(STATE)
    assert_close(logits(model.train(), batch), evaluated, rtol=1e-4, atol=1e-6)
    assert torch.equal(logits(model.eval(), batch), evaluated)


def ends(batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    """(row, its tokens)."""
    return [*enumerate(batch["attention_mask"].sum(dim=1).tolist())]


@pytest.mark.parametrize(("group", "tokens"), [(0.25, 8), (0.5, 16), (0.07, 2), (5, 5), (100, 100)])
def test_a_share_is_of_the_longest_row(bench: Bench, tmp_path: Path, group: float, tokens: int):
    (update,) = training_with(bench, tmp_path, group).hooks  # task.max_length: 32
    assert isinstance(update, ShiftedSparseAttention)
    assert update.group == tokens


def gradients(training: Any, *rows: int) -> dict[str, torch.Tensor]:
    training.adapted.model.train().zero_grad()
    training.loss(training.model, training.loader.encoded.collate(rows)).backward()
    return {tensor.name: tensor.parameter.grad.clone() for tensor in training.adapted.trained()}


def test_recomputed_layers_have_the_same_gradients(bench: Bench, tmp_path: Path):
    settings = ("adapter.method=longlora", "training.precision=fp32")
    plain = training_with(bench, tmp_path / "a", 4, *settings)
    recomputed = training_with(bench, tmp_path / "b", 4, *settings, "training.gradient_checkpointing=true")
    with torch.random.fork_rng(devices=[]):
        assert_close(gradients(recomputed, 0, 1, 5, 6), gradients(plain, 0, 1, 5, 6))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_under_autocast(bench: Bench, tmp_path: Path, attention: str):
    training = training_with(
        bench, tmp_path, 4, "adapter.method=longlora", "training.precision=bf16", f"model.attention={attention}"
    )
    found = gradients(training, 0, 1, 5, 6)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert any(gradient.any() for name, gradient in found.items() if name.endswith(".B"))


@pytest.mark.parametrize(
    ("overrides", "family", "key", "says"),
    [
        (("adapter.method=prefix_tuning",), "llama", "adapter.updates", "virtual tokens"),
        (("adapter.method=p_tuning",), "llama", "adapter.updates", "virtual tokens"),
        (("model.attention=flash_attention_2",), "llama", "model.attention", "sdpa, eager"),
        (("adapter.updates=[shifted_attention,hidden_key]",), "llama", "adapter.updates", "one of the two"),
        (("training.freeze_below=1",), "llama", "training.freeze_below", "update 'shifted_attention'"),
        ((), "deberta", "adapter.updates", "no way into the attention of a deberta model"),
        ((), "gemma2", "adapter.updates", "no way into the attention of a gemma model"),
        ((), "mpnet", "adapter.updates", "no way into the attention of a mpnet model"),
    ],
)
def test_what_it_does_not_go_with_is_told_by_a_plan(
    bench: Bench, overrides: tuple[str, ...], family: str, key: str, says: str
):
    with pytest.raises(RecipeError, match=says) as caught:
        lorakit.plan(bench.load(UPDATE, *overrides, "adapter.dropout=0", family=family))
    assert [problem.key for problem in caught.value.problems] == [key]


def test_groups_of_one_token_are_refused(bench: Bench, tmp_path: Path):
    with pytest.raises(RecipeError, match="groups of 1 tokens"):
        training_with(bench, tmp_path, 0.05)
