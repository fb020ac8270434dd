"""RoseLoRA's pruning: importance and masks by hand, the shares of rows and columns exactly, and what may come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench
from torch.testing import assert_close

from lorakit.searching.shrinking import remaining
from lorakit.training import loop
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.pruning import largest, part
from lorakit.training.updates.rose import Rose


class Watch(Hook):
    """Keeps the factors after each step, and the gradients and factors before the pruning of that step."""

    def __init__(self) -> None:
        self.factors: list[dict[str, torch.Tensor]] = []
        self.rose: Rose

    def after_step(self, state: TrainState) -> None:
        self.factors.append({t.name: t.parameter.detach().clone() for t in self.rose.tensors})


def watched(bench: Bench, folder: Path, options: str, *overrides: str) -> tuple[Any, Watch]:
    watch = Watch()
    settings = ("adapter.updates=[rose]", f"adapter.update_options={{{options}}}", *overrides)
    training = bench.prepare(folder, *settings, hooks=[watch])
    rose = training.hooks[0]
    assert isinstance(rose, Rose)
    watch.rose = rose
    return training, watch


def run_windows(training: Any, number: int) -> None:
    training.model.train()
    for step_batch in list(training.loader.step_batches(0))[:number]:
        loop.step(training, step_batch)


def test_three_steps_by_hand(bench: Bench, tmp_path: Path):
    """AdamW's step, then I = beta I + (1 - beta) |p g| with the p after it and the g of it, then the largest of each rank."""
    options = "keep: 0.25, beta: 0.6, begin: 0, settle: 0.5"
    fixed = (
        "training.max_steps=3",
        "training.schedule=constant",
        "training.warmup=0",
        "adapter.dropout=0",
        "training.clip=0",
    )
    training, watch = watched(bench, tmp_path, options, *fixed, "training.weight_decay=0.1")
    training.model.eval()  # no dropout anywhere, so that gradients can be computed again
    optimizer = torch.optim.AdamW([t.parameter for t in training.adapted.trained()], lr=1.0)  # for its defaults only
    beta1, beta2 = optimizer.defaults["betas"]
    values = {t.name: t.parameter.detach().double().numpy().copy() for t in training.adapted.trained()}
    first, second = ({name: np.zeros_like(v) for name, v in values.items()} for _ in range(2))
    importance = {t.name: np.zeros(t.parameter.shape) for t in watch.rose.tensors}
    roles = {t.name: t.role for t in training.adapted.trained()}
    for step, step_batch in enumerate(list(training.loader.step_batches(0))[:3], start=1):
        (batch,) = step_batch.batches
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        loss = torch.nn.functional.cross_entropy(training.adapted.model(**inputs).logits, batch["labels"])
        tensors = list(training.adapted.trained())
        gradients = torch.autograd.grad(loss, [t.parameter for t in tensors])
        for tensor, gradient in zip(tensors, gradients, strict=True):
            g, name = gradient.double().numpy(), tensor.name
            decay = 0.1 if g.ndim > 1 else 0.0
            first[name] = beta1 * first[name] + (1 - beta1) * g
            second[name] = beta2 * second[name] + (1 - beta2) * g**2
            root = np.sqrt(second[name] / (1 - beta2**step)) + 1e-8
            values[name] = values[name] * (1 - 5e-3 * decay) - 5e-3 * first[name] / (1 - beta1**step) / root
            if name in importance:
                importance[name] = 0.6 * importance[name] + 0.4 * np.abs(values[name] * g)
                # steps 0, 1, 2, ... of 3; the cubic ends at ceil(1.5) = 2: (1 - t)^3 with t = 1/2, then 0
                share = 0.25 + 0.75 * 0.5**3 if step == 1 else 0.25
                lines = importance[name] if roles[name] == "A" else importance[name].T
                kept = np.zeros_like(lines)
                for line, row in zip(kept, lines, strict=True):
                    line[np.argsort(-row, kind="stable")[: int(share * len(row) + 0.5)]] = 1
                values[name] = values[name] * (kept if roles[name] == "A" else kept.T)
        loop.step(training, step_batch)
        for name, tensor in watch.factors[-1].items():
            assert_close(tensor.double().numpy(), values[name], rtol=2e-3, atol=1e-6)
            training_value = {t.name: t.parameter for t in training.adapted.trained()}[name]
            values[name] = training_value.detach().double().numpy().copy()
    assert len(watch.factors) == 3


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_in_the_end_each_column_of_b_and_row_of_a_has_its_share(bench: Bench, family: str):
    """Of 32 entries 5 % are 2, of 48 they are 2; also after weight decay, in the file."""
    run = bench.train(
        "adapter.method=roselora", "training.weight_decay=0.3", "adapter.targets=[q,up]", family=family
    ).run_dir
    factors = {
        name: t for name, t in load_file(run / "adapter" / "adapter_model.safetensors").items() if "lora_" in name
    }
    assert len(factors) == 2 * 2 * 2
    for name, tensor in factors.items():
        ranks = tensor if "lora_A" in name else tensor.T
        assert (ranks.count_nonzero(dim=1) <= part(0.05, ranks.shape[1])).all()
    assert sum(int(tensor.count_nonzero()) for tensor in factors.values()) > 0.9 * sum(
        part(0.05, max(tensor.shape)) * min(tensor.shape) for tensor in factors.values()
    )


def test_what_was_pruned_may_come_back(bench: Bench, tmp_path: Path):
    """The set of entries other than zero is not the same at every step, though the share is."""
    options = "keep: 0.2, begin: 0, settle: 1, beta: 0.5"
    training, watch = watched(bench, tmp_path, options, "training.lr=0.02", "training.warmup=0")
    run_windows(training, 6)
    returned = 0
    for before, after in zip(watch.factors, watch.factors[1:], strict=False):
        returned += sum(int(((before[name] == 0) & (after[name] != 0)).sum()) for name in before)
    assert returned > 0


def test_nothing_is_pruned_before_it_begins(bench: Bench, tmp_path: Path):
    options = "keep: 0.05, begin: 0.5, settle: 0.25"
    training, _ = watched(bench, tmp_path, options, "training.epochs=2", "training.warmup=0")
    plain = bench.prepare(tmp_path / "plain", "training.epochs=2", "training.warmup=0")
    for each in (training, plain):
        torch.manual_seed(0)
        run_windows(each, 6)  # half of 12
    assert_close(dict(training.adapted.tensors()), dict(plain.adapted.tensors()), rtol=0, atol=0)


def test_the_share_falls_as_a_cubic():
    assert [remaining(step, 10, 20, 0.2) for step in (0, 10)] == [1.0, 1.0]
    assert remaining(15, 10, 20, 0.2) == pytest.approx(0.2 + 0.8 / 8)
    assert remaining(19, 10, 20, 0.2) == pytest.approx(0.2 + 0.8 / 1000)
    assert [remaining(step, 10, 20, 0.2) for step in (20, 99)] == [0.2, 0.2]


def test_the_largest_and_the_first_of_equals():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert largest(scores, 2).tolist() == [[False, True, True, False, False], [True, True, False, False, False]]
    assert [part(0.5, 5), part(0.05, 32), part(0.0, 32), part(1.0, 7)] == [3, 2, 1, 7]
