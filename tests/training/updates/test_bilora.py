"""BiLoRA's two levels: which rows each part of an adapter learns on, and by which gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench, StopAt, records
from torch.testing import assert_close

import lorakit
from lorakit.errors import Interrupted, RecipeError, RunError
from lorakit.training import loop
from lorakit.training.hooks import TrainState
from lorakit.training.nonfinite import nonfinite_error
from lorakit.training.updates.bilora import BiLoRA

METHOD = "adapter.method=bilora"
QUIET = (METHOD, "adapter.dropout=0")
STATE = TrainState(total_steps=12, steps_per_epoch=6)


@pytest.fixture
def training(bench: Bench, tmp_path: Path) -> Any:
    training = bench.prepare(tmp_path, *QUIET)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # where no gradient is zero
        for tensor in training.adapted.trained():
            tensor.parameter.add_(0.1 * torch.randn(tensor.parameter.shape, generator=draw))
    return training


def texts(batches: list[Any]) -> set[tuple[int, ...]]:
    """The rows, by their tokens."""
    return {
        tuple(ids[mask.bool()].tolist())
        for b in batches
        for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
    }


def test_a_fifth_of_the_rows_is_the_values_alone(training: Any):
    (update,) = training.hooks
    loader = training.loader
    rows = len(loader.encoded)
    aside = sorted(set(range(rows)) - set(loader.chosen.tolist()))
    assert len(aside) == -(-rows // 5)
    steps = [row for rows in loader.batches(0) for row in rows]
    assert sorted(steps) == sorted({*range(rows)} - {*aside})
    assert training.schedule.rows == len(steps)
    theirs = texts([loader.encoded.collate(aside)])
    drawn = texts([batch for _ in range(20) for batch in update.context.draw(1)])
    assert drawn <= theirs
    assert len(drawn) > 0.5 * len(theirs)


def test_values_follow_their_own_rows_and_vectors_the_steps(training: Any):
    """The values' gradient is that of the mean loss on the batch that is drawn; A's and B's stay those of the step."""
    (update,) = training.hooks
    context, model = update.context, training.adapted.model
    before = context.generator.get_state()
    (batch,) = context.draw(1)
    context.generator.set_state(before)
    model.eval()
    context.objective.mean(model, batch).backward()
    expected = {t.name: t.parameter.grad.clone() for t in training.adapted.trained() if t.role == "gate"}
    model.zero_grad(set_to_none=True)
    model.train()
    step = training.loader.encoded.collate(training.loader.batches(0)[0])
    training.loss(model, step).backward()
    vectors = {t.name: t.parameter.grad.clone() for t in training.adapted.trained() if t.role != "gate"}
    update.after_backward(STATE)
    assert model.training
    for tensor in training.adapted.trained():
        assert_close(tensor.parameter.grad, (expected | vectors)[tensor.name], msg=tensor.name)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0


def test_the_vectors_are_kept_near_to_orthonormal(training: Any, bench: Bench, tmp_path: Path):
    """rows * 0.1 * the mean of |A A^T - 1| and |B^T B - 1| over all sites, on top of the task's loss."""
    batch = training.loader.encoded.collate(range(4))
    training.model.eval()
    terms = []
    for adapter in training.adapted.adapters.values():
        a, b = adapter.delta.A.detach().double(), adapter.delta.B.detach().double()
        terms += [torch.linalg.norm(a @ a.T - torch.eye(len(a))), torch.linalg.norm(b.T @ b - torch.eye(len(a)))]
    added = training.loss(training.model, batch) - training.objective.summed(training.model, batch)
    assert_close(added.double(), 4 * 0.1 * torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_where_it_was_stopped(bench: Bench, tmp_path: Path):
    whole = bench.train(METHOD)
    with pytest.raises(Interrupted):
        bench.train(METHOD, run_dir=tmp_path / "run", hooks=[StopAt(2)])
    bench.train(METHOD, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(whole.run_dir)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("adapter.delta=low_rank", "adapter.delta"),
        ("adapter.trainable=A+B", "adapter.trainable"),
        ("search.method=adalora", "search.method"),
        ("training.micro_tokens=64", "training.micro_tokens"),
        ("training.precision=fp16", "training.precision"),
        ("adapter.update_options={share: 0}", "adapter.update_options"),
        ("adapter.update_options={share: 0.99}", "adapter.update_options"),  # 45 rows: 44.55, rounded up to all of them
    ],
)
def test_what_it_does_not_go_with(bench: Bench, setting: str, key: str):
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        lorakit.plan(bench.load(METHOD, setting))


def test_plan_counts_the_rows_that_steps_see(bench: Bench):
    plain, planned = lorakit.plan(bench.load("adapter.method=trilora")), lorakit.plan(bench.load(METHOD))
    assert f"9 of {plain.rows} training rows are set aside" in planned.notes[-1]
    assert planned.rows == plain.rows - -(-plain.rows // 5)
    assert BiLoRA.aside({"share": 0.2}) == 0.2
    fitted = lorakit.plan(bench.load(METHOD, "model.head_start=fitted")).notes
    assert f"features of {plain.rows} training rows" in fitted[-1]


def test_values_whose_gradient_is_not_finite_are_left_out_with_the_step(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    training = bench.prepare(tmp_path, *QUIET, "training.nonfinite=skip")
    good, bad, *_ = training.loader.step_batches(0)
    loop.step(training, good)
    before = {name: tensor.clone() for name, tensor in training.adapted.tensors().items()}
    mean = training.objective.mean
    monkeypatch.setattr(type(training.objective), "mean", lambda _, *given: mean(*given) * float("nan"))
    loop.step(training, bad)
    assert training.state.skipped == [2]
    assert_close(training.adapted.tensors(), before, rtol=0, atol=0)
    with pytest.raises(RunError, match="or those set aside for updates"):
        raise nonfinite_error(training, 2, "the norm of the gradients is nan")
