"""The loop against loops written by hand, and what it does around its steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from support.runs import SEARCH, Bench, Recorder, records
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, get_scheduler

from lorakit.artifacts.files import read_jsonl
from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.first_token import compute_first_token_only
from lorakit.errors import RunError
from lorakit.training import loop
from lorakit.training.dropout import fast_dropout
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.seeds import derive_seed
from lorakit.training.training import Training
from lorakit.workflow import setup as building


class Gradients(Hook):
    """Copies what the optimiser is about to use."""

    training: Training
    seen: dict[str, torch.Tensor]

    def before_optimizer_step(self, state: TrainState) -> None:
        tensors = self.training.adapted.trained()
        self.seen = {t.name: t.parameter.grad.clone() for t in tensors if t.parameter.grad is not None}


def one_step(bench: Bench, folder: Path, *overrides: str, **options: str) -> tuple[dict[str, torch.Tensor], Training]:
    """The gradients of one step over the window of rows 0-7 and 8-12, and the training (not stepped by them: lr is 0 there)."""
    hook = Gradients()
    training = bench.prepare(folder, "training.batch_size=8", "adapter.dropout=0", *overrides, hooks=[hook], **options)
    hook.training = training
    parts = [training.loader.encoded.collate(rows) for rows in (range(8), range(8, 13))]
    loop.step(training, loop.StepBatch(parts, rows=13))
    return hook.seen, training


@pytest.mark.parametrize("kind", ["one", "number"])
def test_an_accumulated_step_has_the_gradient_of_one_big_batch(bench: Bench, tmp_path: Path, kind: str):
    """The batches are of unequal size: a mean of their means would be another number."""
    seen, training = one_step(
        bench, tmp_path, "training.clip=0", "training.accumulate=2", "training.lr=1e-12", kind=kind
    )
    batch = training.loader.encoded.collate(range(13))
    labels = batch.pop("labels")
    logits = training.adapted.model(**batch).logits
    loss = F.mse_loss(logits[:, 0], labels) if kind == "number" else F.cross_entropy(logits, labels)
    tensors = list(training.adapted.trained())
    expected = torch.autograd.grad(loss, [tensor.parameter for tensor in tensors])
    assert set(seen) == {tensor.name for tensor in tensors}
    for tensor, gradient in zip(tensors, expected, strict=True):
        assert_close(seen[tensor.name], gradient, rtol=1e-4, atol=1e-6)
    assert float(torch.stack(training.losses).sum()) == pytest.approx(loss.item(), rel=1e-5)


def test_clipping_scales_all_gradients_to_the_limit(bench: Bench, tmp_path: Path):
    free, _ = one_step(bench, tmp_path, "training.clip=0")
    clipped, _ = one_step(bench, tmp_path, "training.clip=0.01")
    norm = torch.stack([gradient.norm() for gradient in free.values()]).norm()
    assert norm > 0.01
    for name, gradient in free.items():
        assert_close(clipped[name], gradient * 0.01 / (norm + 1e-6))
    below, _ = one_step(bench, tmp_path, "training.clip=1000")
    assert all(torch.equal(below[name], gradient) for name, gradient in free.items())


@pytest.mark.parametrize("lean", [True, False])
def test_the_loop_is_peft_in_a_loop_written_by_hand(
    bench: Bench, tmp_path: Path, lean: bool, monkeypatch: pytest.MonkeyPatch
):
    """Same batches, dropout stream, AdamW, warm-up and linear decay, clipping: the same weights after every epoch.

    lean: with unread tokens left out and fast dropout on both sides; else with neither, beside PEFT as it comes.
    """
    if not lean:
        for name in ("compute_first_token_only", "fast_dropout"):
            monkeypatch.setattr(building, name, lambda *arguments: None)
    settings = ("adapter.dropout=0", "training.clip=0.5", "training.accumulate=2", "training.weight_decay=0.05")
    start = bench.prepare(tmp_path, *settings)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=16, target_modules=list(start.adapted.adapters), lora_dropout=0.0
    )
    base = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    twin = peft.get_peft_model(base, config)
    if lean:
        compute_first_token_only(base, Anatomy(base))
        fast_dropout(twin)
    values = {f"base_model.model.{name}": tensor for name, tensor in peft_names(start.adapted.tensors()).items()}
    peft.set_peft_model_state_dict(twin, values)

    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in trained if (p.ndim > 1) == decays]} for decays in (True, False)]
    groups[1]["weight_decay"] = 0.0  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(groups, lr=5e-3, weight_decay=0.05)
    scheduler: Any = get_scheduler("linear", optimizer, start.schedule.warmup_steps, start.schedule.total_steps)
    torch.manual_seed(derive_seed(0, "dropout"))
    twin.train()
    for epoch in range(2):
        for step_batch in start.loader.step_batches(epoch):
            for batch in step_batch.batches:
                inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
                loss = F.cross_entropy(twin(**inputs).logits, batch["labels"], reduction="sum") / step_batch.rows
                loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    run = bench.train(*settings).run_dir
    ours = load_file(run / "adapter" / "adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(twin)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert_close(ours[name], tensor.detach(), rtol=1e-3, atol=1e-5)


def peft_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        f"{name[:-1]}lora_{name[-1]}.weight" if name.endswith((".A", ".B")) else name: tensor
        for name, tensor in state.items()
    }


def test_hooks_are_called_at_the_named_times(bench: Bench):
    """Two epochs of two steps, a tick each epoch, a line every third step and the last, evaluation after each epoch."""
    recorder = Recorder()
    bench.train(*SEARCH, "training.batch_size=32", "search.every=1", "run.log_every=3", hooks=[recorder])

    def step(number: int, *after: str) -> list[tuple[str, int]]:
        return [
            ("before_forward", number),
            ("before_optimizer_step", number),
            *((moment, number + 1) for moment in ("after_step", *after)),
        ]

    assert recorder.seen == [
        ("on_train_begin", 0),
        ("on_tick", 0),
        *step(0),
        *step(1, "on_evaluation", "on_epoch_end"),
        ("on_tick", 2),
        *step(2, "on_log"),
        *step(3, "on_log", "on_evaluation", "on_epoch_end"),
        ("on_train_end", 4),
    ]


def test_max_steps_ends_in_mid_epoch(bench: Bench):
    recorder = Recorder()
    result = bench.train("training.max_steps=8", hooks=[recorder])
    assert (result.steps, result.epochs) == (8, 8 / 6)
    assert [step for moment, step in recorder.seen if moment == "on_evaluation"] == [6, 8]
    assert [step for moment, step in recorder.seen if moment == "on_epoch_end"] == [6]
    assert (result.run_dir / "checkpoints" / "step-8").is_dir()


def test_log_lines_are_means_since_the_line_before(bench: Bench):
    """Lines of every step, averaged in twos and threes, are the lines of every fifth step, ragged end and all."""
    fine = [r["loss"] for r in read_jsonl(bench.train("run.log_every=1").run_dir / "metrics.jsonl") if "loss" in r]
    lines = [r for r in read_jsonl(bench.train("run.log_every=5").run_dir / "metrics.jsonl") if "loss" in r]
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line, steps in zip(lines, (fine[:5], fine[5:10], fine[10:]), strict=True):
        assert line["loss"] == pytest.approx(sum(steps) / len(steps), rel=1e-6)
        assert line["epoch"] == line["step"] / 6


@pytest.mark.parametrize(
    ("kind", "metric", "choose"),
    [
        ("one", "accuracy", max),
        pytest.param("number", "pearson", max, marks=pytest.mark.slow),
        ("number", "mse", min),
    ],
)
def test_best_is_the_first_of_the_best_evaluations(bench: Bench, kind: str, metric: str, choose: Callable[..., float]):
    settings = ("evaluation.every_steps=2", "training.lr=0.05", "training.epochs=3", f"task.metric={metric}")
    result = bench.train(*settings, kind=kind)
    scores = [(r["step"], r["scores"]) for r in read_jsonl(result.run_dir / "metrics.jsonl") if "scores" in r]
    target = choose(score[metric] for _, score in scores)
    assert (result.best_step, result.best) == next((s, score) for s, score in scores if score[metric] == target)
    assert result.last == scores[-1][1]
    assert result.metric == metric
    assert result.best_epoch == result.best_step / 6


def test_a_loss_that_is_not_a_number_ends_the_training(bench: Bench):
    with pytest.raises(RunError, match="the loss is nan at step 2") as caught:
        bench.train("training.lr=1e30", "training.clip=0", "training.warmup=0", "run.log_every=2")
    assert caught.value.exit_code == 1
    assert "training.lr" in caught.value.problems[0].hint


@pytest.mark.parametrize("kind", ["one", "number"])
def test_a_diverged_model_is_neither_evaluated_nor_saved(bench: Bench, tmp_path: Path, kind: str):
    settings = ("training.lr=1e30", "training.clip=0", "training.warmup=0", "run.log_every=1000")
    with pytest.raises(RunError, match="the loss is nan at step 2"):
        bench.train(*settings, run_dir=tmp_path / "diverged", kind=kind)
    assert not list((tmp_path / "diverged").glob("checkpoints/*"))
    assert not (tmp_path / "diverged" / "best").exists()


def test_bf16_is_fp32_to_three_digits(bench: Bench):
    """Autocast on the CPU; the adapters themselves stay in float32."""
    losses = []
    for precision in ("fp32", "bf16"):
        run = bench.train(f"training.precision={precision}", "training.lr=1e-3").run_dir
        losses.append([line["loss"] for line in read_jsonl(run / "metrics.jsonl") if "loss" in line])
        tensors = load_file(run / "adapter" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_the_same_recipe_and_seed_give_the_same_run(bench: Bench):
    first, again = (records(bench.train(*SEARCH).run_dir) for _ in range(2))
    assert first == again
    other = records(bench.train(*SEARCH, "run.seed=1").run_dir)
    assert other["metrics"] != first["metrics"]
    assert other["adapter/lorakit_model.safetensors"] != first["adapter/lorakit_model.safetensors"]


class Batches(Hook):
    """What a training reads, by wrapping its loader."""

    def __init__(self) -> None:
        self.rows: list[list[list[int]]] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = loop.step

        def step(training: Training, step_batch: loop.StepBatch) -> None:
            self.rows.append([batch["input_ids"].tolist() for batch in step_batch.batches])
            plain(training, step_batch)

        monkeypatch.setattr(loop, "step", step)


def test_a_search_changes_neither_data_order_nor_dropout(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """A search that leaves everything on, with dropout while it scores, changes nothing at all but the diary."""
    batches = Batches()
    batches.watch(monkeypatch)
    sites = ("adapter.targets=[q,v,up]", "adapter.shortcuts=[res1,mid]")
    plain = records(bench.train(*sites).run_dir)
    order = batches.rows.copy()
    batches.rows.clear()
    everything = records(bench.train(*SEARCH, "search.enable=1", "search.mode=train").run_dir)
    assert batches.rows == order
    assert len(everything["timeline"]) == 6
    for name, value in plain.items():
        if name not in ("timeline", "summary"):
            assert everything[name] == value, name
    batches.rows.clear()
    bench.train(*SEARCH)
    assert batches.rows == order
