"""Which tensor learns how fast, and how that falls over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench
from transformers import get_scheduler

from lorakit.recipe.schema import TrainingSection
from lorakit.training.optim import base_rate, make_optimizer, make_scheduler, moments_of
from lorakit.training.schedule import Schedule


def groups_by_tensor(bench: Bench, folder: Path, *overrides: str) -> dict[str, tuple[float, float]]:
    """Tensor name -> (learning rate, weight decay) at the start of the optimiser's life."""
    training = bench.prepare(folder, *overrides)
    names = {tensor.parameter: tensor.name for tensor in training.adapted.trained()}
    optimizer = make_optimizer(training.adapted, training.recipe.training, base_rate(training.recipe))
    assert isinstance(optimizer, torch.optim.AdamW)
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_one_rate_for_all_and_no_decay_on_vectors(bench: Bench, tmp_path: Path):
    table = groups_by_tensor(bench, tmp_path, "adapter.method=dora", "training.lr=0.001", "training.weight_decay=0.1")
    assert {lr for lr, _ in table.values()} == {0.001}
    for name, (_, decay) in table.items():
        assert decay == (0.0 if name.endswith(("magnitude", "bias")) else 0.1), name


def test_vectors_side_by_side_do_not_decay_either(bench: Bench, tmp_path: Path):
    """MoV's change nothing at 1: at 0 there would be no layer left."""
    table = groups_by_tensor(bench, tmp_path, "adapter.method=mov", "adapter.dropout=0", "training.weight_decay=0.1")
    found = {name.rpartition(".")[2]: decay for name, (_, decay) in table.items() if not name.startswith("classifier")}
    assert found == {"l": 0.0, "R": 0.1}


def test_every_trained_tensor_is_there_once(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path, "adapter.shortcuts=[res1]")
    optimizer = make_optimizer(training.adapted, training.recipe.training, base_rate(training.recipe))
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trainable = {parameter for parameter in training.adapted.model.parameters() if parameter.requires_grad}
    assert len(listed) == len(set(listed))
    assert set(listed) == trainable


def test_lora_plus_speeds_up_role_b_alone(bench: Bench, tmp_path: Path):
    settings = ("adapter.method=lora_plus", "adapter.lr_ratio=16", "training.lr=0.001", "adapter.shortcuts=[res1]")
    table = groups_by_tensor(bench, tmp_path, *settings)
    assert any("res1" in name for name in table)
    for name, (lr, _) in table.items():
        assert lr == pytest.approx(0.016 if name.endswith(".B") else 0.001), name


def test_the_head_has_its_own_rate(bench: Bench, tmp_path: Path):
    table = groups_by_tensor(bench, tmp_path, "training.lr=0.001", "training.head_lr=0.02", "adapter.lr_ratio=4")
    for name, (lr, _) in table.items():
        site_rate = 0.004 if name.endswith(".B") else 0.001
        assert lr == pytest.approx(0.02 if name.startswith("classifier") else site_rate), name


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")]
)
def test_schedules_are_transformers(ours: str, theirs: str):
    section = TrainingSection(schedule=ours)
    schedule = Schedule(800, 20, 60, 7, [], [60], [60])
    rates: list[list[float]] = []
    for maker in (lambda o: make_scheduler(o, section, schedule), lambda o: get_scheduler(theirs, o, 7, 60)):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        scheduler: Any = maker(optimizer)
        rates.append([])
        for _ in range(60):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        rates[-1].append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    assert rates[0][0] == 0.0
    assert rates[0][7] == 0.5
    assert rates[0][-1] == pytest.approx(0.5 if ours == "constant" else 0.0)


def test_moments_are_the_first_and_then_the_second_also_after_a_checkpoint() -> None:
    """Whatever the order is in which a loaded state has them."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    assert moments_of(optimizer, weight) == []
    weight.grad = torch.full((3,), 2.0)
    optimizer.step()
    optimizer.state[weight] = dict(reversed(optimizer.state[weight].items()))
    first, second = moments_of(optimizer, weight)
    assert first.tolist() == pytest.approx([0.2] * 3)  # (1 - 0.9) g
    assert second.tolist() == pytest.approx([0.004] * 3)  # (1 - 0.999) g^2
