"""A search in somebody's own loop chooses what `lorakit train` chooses on the same rows, model and seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import Bench
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

import lorakit
from lorakit.artifacts.files import read_jsonl
from lorakit.errors import RunError
from lorakit.training.training import Training
from lorakit.workflow.restore import restore_run

EPOCHS, BATCH = 2, 8
ADAPTER = {"rank": 4, "targets": ["q", "v", "up"], "shortcuts": ["res1", "mid"]}
SEARCH = {"budget": 0.5, "every": 0.5, "batches": 2}
RECIPE = (
    "adapter.rank=4",
    "adapter.targets=[q,v,up]",
    "adapter.shortcuts=[res1,mid]",
    "adapter.dropout=0",
    "search.enable=0.5",
    "search.every=0.5",
    "search.batches=2",
    f"training.epochs={EPOCHS}",
    f"training.batch_size={BATCH}",
    "training.schedule=constant",
    "training.warmup=0",
    "training.lr=3.0e-2",
    "evaluation.calibrate=false",
)


class InOrder:
    """An epoch's batches as `lorakit train` has them, the next epoch's at the next call."""

    def __init__(self, epochs: list[list[list[int]]]):
        self.epochs, self.at = epochs, 0

    def __iter__(self) -> Iterator[list[int]]:
        self.at += 1
        return iter(self.epochs[self.at - 1])

    def __len__(self) -> int:
        return len(self.epochs[0])


class Bound:
    """A run of `lorakit train`, and what is needed to train the same elsewhere."""

    def __init__(self, bench: Bench, folder: Path, *settings: str):
        calm = bench.backbone("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        told = (*RECIPE, f"model.name={calm}", *settings)
        self.run = bench.train(*told, run_dir=folder / "run").run_dir
        made: Training = bench.prepare(folder / "made", *told)
        self.backbone, loader = made.adapted.backbone, made.loader
        self.head = {name: made.model.get_parameter(name).detach().clone() for name in self.backbone.new_parts}
        self.rows = [{key: value[0] for key, value in loader.collate([i], [i]).items()} for i in loader.every_row]
        self.epochs = [loader.batches(epoch) for epoch in range(EPOCHS)]
        self.collate = DataCollatorWithPadding(self.backbone.tokenizer)

    def model(self) -> Any:
        """The model as anybody loads it, with the head that the run started with."""
        model = AutoModelForSequenceClassification.from_pretrained(self.backbone.folder, num_labels=2)
        with torch.no_grad():
            for name, tensor in self.head.items():
                model.get_parameter(name).copy_(tensor)
        return model.train()

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Every step's batch."""
        return (self.collate([self.rows[i] for i in rows]) for epoch in self.epochs for rows in epoch)

    def same(self, search: lorakit.Search, *, steps: int = 2 * EPOCHS) -> None:
        """Assert that the search chose as the run's, and that the model came to the same."""
        timeline = read_jsonl(self.run / "timeline.jsonl")
        assert len(timeline) == steps == len(search.timeline)
        for ours, theirs in zip(search.timeline, timeline, strict=True):
            assert {key: ours[key] for key in ("tick", "step", "epoch", "on", "ranks", "parameters", "budget")} == {
                key: theirs[key] for key in ("tick", "step", "epoch", "on", "ranks", "parameters", "budget")
            }
            assert ours["scores"] == pytest.approx(theirs["scores"], rel=1e-3)
        assert len({tuple(tick["on"]) for tick in timeline}) > 1, "the ticks all chose the same: nothing is tested"
        trained = restore_run(self.run, "last").adapted.model.eval()
        batch = self.collate(self.rows[:BATCH])
        with torch.no_grad():
            torch.testing.assert_close(
                search.adapted.model.eval()(**batch).logits, trained(**batch).logits, rtol=1e-4, atol=1e-4
            )


class OrderedTrainer(Trainer):
    """The real Trainer, over batches in a given order."""

    order: InOrder

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=self.data_collator)  # type: ignore[arg-type]


def train_by_trainer(bound: Bound, folder: Path, adapted: lorakit.Adapted, callback: Any, **arguments: Any) -> Trainer:
    told = {"save_strategy": "no", "max_grad_norm": 1.0} | arguments
    args = TrainingArguments(
        str(folder / "trainer"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **told,
    )
    optimizer = torch.optim.AdamW(adapted.groups(lr=3e-2))
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = OrderedTrainer(
        adapted.model, args, bound.collate, bound.rows, optimizers=(optimizer, constant), callbacks=[callback]
    )
    trainer.order = InOrder(bound.epochs)
    return trainer


@pytest.fixture(scope="module")
def bound(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bound:
    return Bound(bench, tmp_path_factory.mktemp("bound"), "search.method=heterolora")


def test_the_trainer_chooses_as_lorakit_train_does(bound: Bound, tmp_path: Path):
    adapted = lorakit.adapt(bound.model(), **ADAPTER)
    search = lorakit.Search("heterolora", adapted, **SEARCH)
    train_by_trainer(bound, tmp_path, adapted, search.callback()).train()
    bound.same(search)


def test_a_loop_by_hand_does_too(bound: Bound):
    adapted = lorakit.adapt(bound.model(), **ADAPTER)
    search = lorakit.Search("heterolora", adapted, **SEARCH, rows=bound.rows, collate=bound.collate, batch_size=BATCH)
    optimizer = torch.optim.AdamW(adapted.groups(lr=3e-2))
    search.begin(optimizer, steps=sum(map(len, bound.epochs)), steps_per_epoch=len(bound.epochs[0]))
    for batch in bound.batches():
        search.before_step()
        adapted.model(**batch).loss.backward()
        search.after_backward()
        nn.utils.clip_grad_norm_([tensor.parameter for tensor in adapted.trained()], 1.0)
        optimizer.step()
        search.after_step()
        optimizer.zero_grad(set_to_none=False)  # sites that are off must not move by their momentum
    search.end()
    bound.same(search)


def test_a_runs_adapter_goes_on_the_model_that_transformers_loads(bound: Bound, tmp_path: Path):
    restored = restore_run(bound.run, None)
    adapted = lorakit.attach_saved(bound.model(), bound.run)
    batch = bound.collate(bound.rows[:BATCH])
    with torch.no_grad():
        assert torch.equal(adapted.model.eval()(**batch).logits, restored.adapted.model(**batch).logits)
    assert adapted.inside.states() == restored.adapted.states()
    other = tmp_path / "other"
    bound.model().save_pretrained(other)
    elsewhere = AutoModelForSequenceClassification.from_pretrained(other)
    with pytest.raises(RunError, match=r"was trained on other weights: model\.safetensors"):
        lorakit.attach_saved(elsewhere, bound.run)
    lorakit.attach_saved(elsewhere, bound.run, check_base=False)
