"""Online-LoRA: when a plateau is one, what a step adds to the gradient, and what is important, by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from support.runs import Bench
from torch.nn import functional as F

from lorakit.errors import RecipeError
from lorakit.training.hooks import TrainState
from lorakit.training.updates import online_lora
from lorakit.training.updates.online_lora import Plateaus
from lorakit.workflow.restore import restore_run

OPTIONS = "adapter.update_options={loras: 2, hard_rows: 3, importance: 7.0}"
STATE = TrainState(total_steps=1, steps_per_epoch=1)


@pytest.fixture(scope="module")
def training(bench: Bench, tmp_path_factory):
    """A BERT without dropout, its B away from zero."""
    model = bench.backbone("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = ("adapter.updates=[online_lora]", OPTIONS, f"model.name={model}", "adapter.dropout=0")
    made = bench.prepare(tmp_path_factory.mktemp("online"), *settings)
    torch.manual_seed(0)
    for adapter in made.adapted.adapters.values():
        torch.nn.init.normal_(adapter.delta.B, std=0.5)
    return made


@pytest.fixture
def update(training):
    """The update at its start, having seen the loss of one batch of six rows."""
    (found,) = [hook for hook in training.hooks if hook.name == "online_lora"]
    found.active, found.number, found.omega, found.start, found.hard = 0, 0, [], [], []
    found.forget_step()
    found.on_train_begin(STATE)
    training.model.zero_grad()
    return found


def batch_of(training, number: int = 6):
    return training.loader.encoded.collate(range(number))


def row_losses(training, batch) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return F.cross_entropy(training.adapted.model(**inputs).logits, batch["labels"], reduction="none")


def test_a_plateau_is_low_and_flat_and_another_one_needs_a_rise():
    plateaus = Plateaus(length=3, mean=1.0, variance=0.01)
    losses = [0.5, 0.5, 0.5, 0.5, 0.8, 0.8, 0.8, 2.0, 2.0, 2.0, 0.9, 0.9, 0.9]
    # full at the third; no rise at the fourth; 0.8 three times is flat; 2.0 is too high; then 0.9 is flat again
    assert [plateaus.see(loss) for loss in losses] == [place in (2, 6, 12) for place in range(13)]
    plateaus = Plateaus(length=2, mean=1.0, variance=0.01)
    # variance 0.0064 about 0.58: the next must have a mean above 0.66
    assert [plateaus.see(loss) for loss in (0.5, 0.66, 0.65, 0.66, 0.665, 0.66)] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]


def test_the_hardest_rows_are_kept(training, update):
    batch = batch_of(training)
    training.loss(training.model, batch)
    update.after_step(STATE)
    losses = row_losses(training, batch).detach()
    hardest = losses.argsort(descending=True)[:3].tolist()
    assert [row.label for row in update.hard] == batch["labels"][hardest].tolist()
    assert [row.ids for row in update.hard] == [
        batch["input_ids"][place][batch["attention_mask"][place].bool()].tolist() for place in hardest
    ]
    assert update.plateaus.window[-1] == pytest.approx(losses.mean().item())


def test_a_step_adds_the_hard_rows_and_the_penalty_and_holds_the_rest(training, update):
    batch = batch_of(training, 3)
    training.loss(training.model, batch)
    update.after_step(STATE)
    row_losses(training, batch).mean().backward()
    wanted = [parameter.grad.clone() for parameter in update.parameters]
    update.rest()
    update.active = 0
    update.on_train_begin(STATE)
    update.omega = [torch.full_like(each, 0.5) for each in update.omega]
    update.start = [each.detach().clone() for each in update.training_parts(update.parameters)]
    update.start[0] += 0.1
    for parameter in update.parameters:
        parameter.grad = torch.ones_like(parameter)
    update.after_backward(STATE)
    for place, (parameter, own) in enumerate(zip(update.parameters, wanted, strict=True)):
        free, held = (slice(0, 2), slice(2, None))
        found, expected = (parameter.grad.T, own.T) if place % 2 else (parameter.grad, own)
        penalty = 7.0 * 0.5 * -0.1 * (place == 0)
        torch.testing.assert_close(found[free], 1 + expected[free] + penalty, rtol=1e-4, atol=1e-6)
        assert not found[held].any()


def test_what_is_important_is_a_mean_over_plateaus(training, update):
    batch = batch_of(training, 3)
    training.loss(training.model, batch)
    update.after_step(STATE)
    names = {id(tensor.parameter): tensor.parameter for tensor in training.adapted.trained()}
    squares = [torch.zeros_like(parameter) for parameter in update.parameters]
    for place in range(3):
        row = {name: tensor[place : place + 1] for name, tensor in batch.items() if name != "labels"}
        length = int(row["attention_mask"].sum())
        logits = training.adapted.model(**{name: tensor[:, :length] for name, tensor in row.items()}).logits
        training.model.zero_grad()
        F.cross_entropy(logits, logits.argmax(dim=1)).backward()
        for total, parameter in zip(squares, update.parameters, strict=True):
            total += names[id(parameter)].grad ** 2
    first = [each.T[:2].T if place % 2 else each[:2] for place, each in enumerate(squares)]
    second = [each.T[2:].T if place % 2 else each[2:] for place, each in enumerate(squares)]
    update.rest()
    assert (update.active, update.number) == (1, 1)
    for found, wanted in zip(update.omega, first, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-8)
    update.rest()
    assert (update.active, update.number) == (1, 2)  # there is room for two
    for found, one, two in zip(update.omega, first, second, strict=True):
        torch.testing.assert_close(found, (one + two) / 2, rtol=1e-3, atol=1e-8)
    kept = {name: tensor.clone() for name, tensor in update.tensor_state().items()}
    state = update.state_dict()
    update.omega, update.hard, update.active = [], [], 0
    update.load_state_dict(state)
    update.load_tensor_state(kept)
    assert update.active == 1
    assert len(update.hard) == 3
    assert all(torch.equal(kept[name], tensor) for name, tensor in update.tensor_state().items())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("adapter.rank=3", "3 rank units are divided among 2 LoRAs"),
        ("adapter.method=vera", "in delta 'low_rank', and these adapters are made of"),
        ("adapter.trainable=B", "whole LoRAs learn, and 'B' alone trains"),
        ("adapter.decomposition=magnitude", "a magnitude in common would scale them"),
        ("task.long=windows", "a row that is kept is in one piece"),
        ("task.regression=true", "here a row has a number"),
        ("training.precision=fp16", "without the scaled loss that float16 needs"),
        ("training.average=0.2", "a mean over steps would undo that"),
        ("adapter.init=pissa", "a LoRA starts at zero, and init 'pissa' starts all elsewhere"),
        ("adapter.updates=[online_lora, hidden_key]", "'hidden_key' has each twice in a step"),
        ("adapter.updates=[online_lora, rose]", "says which entries of A and B stay as they are, and 'rose'"),
        ("search.method=heterolora", "a search takes rank units or sites out"),
    ],
)
def test_what_it_does_not_go_with_is_refused(bench: Bench, tmp_path, setting, said):
    with pytest.raises(RecipeError, match=said):
        bench.prepare(tmp_path, "adapter.updates=[online_lora]", OPTIONS, setting)


ON = ("adapter.updates=[online_lora]", OPTIONS)


@pytest.fixture(scope="module")
def ended(bench: Bench):
    """A run that it trained."""
    return bench.train("training.epochs=1", *ON).run_dir


def of(training):
    return next(hook for hook in training.hooks if hook.name == "online_lora")


def test_it_goes_on_from_a_run_of_its_own_alone(bench: Bench, tmp_path, ended):
    plain = bench.train("training.epochs=1", "adapter.rank=4").run_dir
    for start, setting, said in (
        (plain, "adapter.rank=4", "has kept nothing of it"),
        (ended, "adapter.update_options={loras: 4}", "has room for 2 LoRAs in .*, and for 4 here"),
        (ended, "model.readout=mean", "its head, which reads something else"),
    ):
        with pytest.raises(RecipeError, match=said):
            bench.prepare(tmp_path, *ON, setting, f"adapter.start={start}")


def test_rows_of_earlier_runs_keep_the_heads_that_they_had(bench: Bench, tmp_path, ended, monkeypatch):
    """Wherever these runs are now, and whatever is called as they were."""
    start = shutil.copytree(ended, tmp_path / "a run")
    second = of(bench.prepare(tmp_path / "second", *ON, f"adapter.start={start}", "adapter.start_head=false"))
    assert {row.run for row in second.hard} == {1}
    shutil.rmtree(start)
    second.hard[0] = replace(second.hard[0], run=0)
    kept = (second.state_dict(), second.tensor_state())
    monkeypatch.setattr(online_lora, "kept_state", lambda *asked: kept)
    third = of(bench.prepare(tmp_path / "third", *ON))
    third.go_on(ended)
    assert [row.run for row in third.hard] == [2, 1, 1]
    head = restore_run(ended, None, with_data=False).adapted
    for run in (1, 2):
        assert third.heads[run].keys() == set(head.new_parts)
        assert all(torch.equal(tensor, head.tensors()[part]) for part, tensor in third.heads[run].items())
