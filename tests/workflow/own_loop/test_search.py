"""A search in somebody's own loop chooses what `lorakit train` chooses on the same rows, model and seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import Bench
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

import lorakit
from lorakit.artifacts.files import read_jsonl
from lorakit.errors import LorakitError, RecipeError, RunError, UsageError
from lorakit.training.training import Training
from lorakit.workflow.own_loop.adapted import Adapted
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
        self.told = told = (*RECIPE, f"model.name={calm}", *settings)
        self.run = bench.train(*told, run_dir=folder / "run").run_dir
        made: Training = bench.prepare(folder / "made", *told)
        self.backbone, loader = made.adapted.backbone, made.loader
        self.head = {name: made.model.get_parameter(name).detach().clone() for name in self.backbone.new_parts}
        self.rows = [{key: value[0] for key, value in loader.collate([i], [i]).items()} for i in loader.every_row]
        self.epochs = [loader.batches(epoch) for epoch in range(EPOCHS)]
        self.collate = DataCollatorWithPadding(self.backbone.tokenizer)
        self.scored = {"rows": self.rows, "collate": self.collate, "batch_size": BATCH}

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

    def chosen_alike(self, search: lorakit.Search) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits that the search's model and the run's came to. AssertionError where they chose otherwise."""
        timeline = read_jsonl(self.run / "timeline.jsonl")
        assert len(timeline) == len(search.timeline)
        for ours, theirs in zip(search.timeline, timeline, strict=True):
            assert {key: ours[key] for key in ("tick", "step", "epoch", "on", "ranks", "parameters", "budget")} == {
                key: theirs[key] for key in ("tick", "step", "epoch", "on", "ranks", "parameters", "budget")
            }
            assert ours["scores"] == pytest.approx(theirs["scores"], rel=1e-3)
        assert len({tuple(tick["ranks"].values()) for tick in timeline}) > 1, (
            "the ticks all chose the same: nothing is tested"
        )
        trained = restore_run(self.run, "last").adapted.model.eval()
        batch = self.collate(self.rows[:BATCH])
        with torch.no_grad():
            return search.adapted.model.eval()(**batch).logits, trained(**batch).logits


class OrderedTrainer(Trainer):
    """The real Trainer, over batches in a given order."""

    order: InOrder

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=self.data_collator)  # type: ignore[arg-type]


def train_by_trainer(bound: Bound, folder: Path, adapted: Adapted, callback: Any, **arguments: Any) -> Trainer:
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


def by_hand(
    bound: Bound, search: lorakit.Search, *, state: dict[str, Any] | None = None, until: int | None = None
) -> Any:
    """Train ``search.adapted`` on the run's batches, from where ``state`` was taken to ``until``; the optimiser."""
    adapted = search.adapted
    optimizer = torch.optim.AdamW(adapted.groups(lr=3e-2))
    search.begin(optimizer, steps=sum(map(len, bound.epochs)), steps_per_epoch=len(bound.epochs[0]))
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        search.load_state_dict(json.loads(state["search"]))
    for batch in list(bound.batches())[search.state.step : until]:
        search.before_step()
        (search.loss(batch) if search.changes_loss else adapted.model(**batch).loss).backward()
        search.after_backward()
        nn.utils.clip_grad_norm_([tensor.parameter for tensor in adapted.trained()], 1.0)
        optimizer.step()
        search.after_step()
        optimizer.zero_grad(set_to_none=False)  # sites that are off must not move by their momentum
    return optimizer


@pytest.fixture(scope="module")
def bound(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bound:
    return Bound(bench, tmp_path_factory.mktemp("bound"), "search.method=heterolora")


def test_the_trainer_chooses_as_lorakit_train_does_and_goes_on_from_its_checkpoint(bound: Bound, tmp_path: Path):
    search = lorakit.Search("heterolora", lorakit.adapt(bound.model(), **ADAPTER), **SEARCH)
    arguments = {"save_strategy": "steps", "save_steps": 4}
    train_by_trainer(bound, tmp_path, search.adapted, search.callback(), **arguments).train()
    torch.testing.assert_close(*bound.chosen_alike(search), rtol=1e-4, atol=1e-4)
    saved = tmp_path / "trainer" / "checkpoint-4"
    adapted = lorakit.attach_saved(bound.model(), saved / "adapter")  # the adapter of that step, with its sites
    assert adapted.inside.on == [tick for tick in search.timeline if tick["step"] < 4][-1]["on"]
    again = lorakit.Search("heterolora", lorakit.adapt(bound.model(), **ADAPTER), **SEARCH)
    trainer = train_by_trainer(bound, tmp_path / "again", again.adapted, again.callback())
    trainer.train(resume_from_checkpoint=str(saved))
    torch.testing.assert_close(*bound.chosen_alike(again), rtol=1e-4, atol=1e-4)


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


@pytest.mark.slow  # a training each
@pytest.mark.parametrize(
    ("method", "adapter", "settings"),
    [
        ("heterolora", {}, {"scoring": "streaming", "options": {"moments": "reset"}}),
        ("adalora", {"method": "adalora"}, {}),
        ("sora", {"method": "sora"}, {}),
        ("squeeze", {}, {"options": {}}),
    ],
)
def test_other_searches_are_the_same_too(
    bench: Bench,
    tmp_path: Path,
    method: str,
    adapter: dict[str, Any],
    settings: dict[str, Any],
):
    own = [
        f"{section}.{key}={value}"
        for section, of in (("adapter", adapter), ("search", settings))
        for key, value in of.items()
    ]
    shortcuts = ["adapter.shortcuts=[]"] if method == "squeeze" else []
    bound = Bound(bench, tmp_path, f"search.method={method}", *[line.replace("'", "") for line in own], *shortcuts)
    told = ADAPTER | adapter | ({"shortcuts": []} if shortcuts else {})
    search = lorakit.Search(method, lorakit.adapt(bound.model(), **told), **SEARCH, **settings, **bound.scored)
    by_hand(bound, search)
    search.end()
    torch.testing.assert_close(*bound.chosen_alike(search), rtol=1e-4, atol=1e-4)


def test_a_loop_by_hand_does_too_and_goes_on_where_it_was_stopped(bound: Bound):
    search = lorakit.Search("heterolora", lorakit.adapt(bound.model(), **ADAPTER), **SEARCH, **bound.scored)
    optimizer = by_hand(bound, search, until=5)
    kept = {"search": json.dumps(search.state_dict()), "optimizer": optimizer.state_dict()}
    tensors = copy.deepcopy(search.adapted.model.state_dict())
    again = lorakit.Search("heterolora", lorakit.adapt(bound.model(), **ADAPTER), **SEARCH, **bound.scored)
    again.adapted.model.load_state_dict(tensors)
    by_hand(bound, again, state=kept)
    again.end()
    torch.testing.assert_close(*bound.chosen_alike(again), rtol=1e-4, atol=1e-4)


def test_lorakit_train_starts_from_what_was_saved(bench: Bench, bound: Bound, tmp_path: Path):
    model = bound.model()
    model.config.id2label = bound.backbone.model.config.id2label  # a head is taken over by the names of its outputs
    adapted = lorakit.adapt(model, **ADAPTER)
    for tensor in adapted.trained():
        tensor.parameter.data += 0.05
    saved = adapted.save(tmp_path / "adapter")
    training = bench.prepare(tmp_path / "run", *bound.told, f"adapter.start={saved}")
    batch = bound.collate(bound.rows[:BATCH])
    with torch.no_grad():
        assert torch.equal(training.model(**batch).logits, adapted.model.eval()(**batch).logits)


def test_what_a_callback_cannot_do_is_said_before_the_first_step(bound: Bound, tmp_path: Path):
    plain = {"rank": 4, "targets": ["q", "v"]}
    for method, settings, arguments, message in (
        ("adalora", {}, {}, r"search\.loss\(batch\)"),
        ("heterolora", {"scoring": "streaming"}, {}, "max_grad_norm=0"),
        ("heterolora", {}, {"load_best_model_at_end": True, "eval_strategy": "no"}, "load_best_model_at_end"),
        ("heterolora", {}, {"label_smoothing_factor": 0.1}, r"loss=FUNCTION"),
    ):
        adapted = lorakit.adapt(bound.model(), "adalora" if method == "adalora" else "lora", **plain)
        search = lorakit.Search(method, adapted, **SEARCH, **settings)
        with pytest.raises(UsageError, match=message):
            train_by_trainer(bound, tmp_path, adapted, search.callback(), **arguments).train()
        assert not search.timeline


def test_what_is_wrong_with_a_search_is_said(bound: Bound):
    adapted = lorakit.adapt(bound.model(), **ADAPTER)
    for method, settings, message in (
        ("heterolra", {}, "did you mean 'heterolora'"),
        ("heterolora", {"proxi": "snip"}, "did you mean 'proxy'"),
        ("heterolora", {"budget": 10}, "holds no site"),
        ("heterolora", {"budget": "half"}, "a budget is a number"),
        ("heterolora", {"budget": 1.5}, "1.5"),
        ("glora", {}, "is no search during a training"),
        ("none", {}, "is no search"),
    ):
        with pytest.raises(LorakitError, match=message):
            lorakit.Search(method, adapted, **settings)
    assert lorakit.Search("heterolora", adapted, budget=np.int64(900)).budget.parameters == 900  # type: ignore[arg-type]
    search = lorakit.Search("heterolora", adapted, **SEARCH)
    with pytest.raises(UsageError, match="has not begun"):
        search.before_step()
    early = torch.optim.AdamW([p for name, p in adapted.model.named_parameters() if "adapter" not in name])
    with pytest.raises(UsageError, match=r"make it after lorakit\.adapt"):
        search.begin(early, steps=10, steps_per_epoch=5)
    optimizer = torch.optim.AdamW(adapted.groups(lr=1e-3))
    with pytest.raises(UsageError, match="none are given"):
        search.begin(optimizer, steps=10, steps_per_epoch=5)
    unequal = {**bound.scored, "rows": [{"input_ids": [5] * n, "labels": 0} for n in range(1, 9)], "collate": None}
    uneven = lorakit.Search("heterolora", adapted, **SEARCH, **unequal)
    uneven.begin(optimizer, steps=10, steps_per_epoch=5)
    with pytest.raises(UsageError, match="do not make a batch by themselves"):
        uneven.before_step()
    with pytest.raises(UsageError, match="restore_callback_states_from_checkpoint"):
        type(search.callback())()
    with pytest.raises(RecipeError, match="more than one a step"):
        lorakit.Search("heterolora", adapted, every=0.1, **bound.scored).begin(optimizer, steps=10, steps_per_epoch=5)


def test_a_loop_that_leaves_a_call_out_is_told(bound: Bound, caplog: pytest.LogCaptureFixture):
    calls = ("before_step", "after_backward", "after_step")

    def loop(*left_out: str, steps: int = 12) -> lorakit.Search:
        adapted = lorakit.adapt(bound.model(), rank=2)
        search = lorakit.Search("heterolora", adapted, budget=0.5, every=0.5, batches=1, **bound.scored)
        search.begin(torch.optim.AdamW(adapted.groups(lr=1e-3)), steps=12, steps_per_epoch=6)
        for _ in range(steps):
            for call in calls:
                if call not in left_out:
                    getattr(search, call)()
        search.end()
        return search

    for left_out, message in (
        (calls[:1], "before_step was not called"),
        (calls[1:2], "after_backward was not called before after_step"),
        (calls[2:], "after_step never came"),
        (calls[1:], "after_step never came"),
        (calls, "no step was told to the search"),
    ):
        with pytest.raises(UsageError, match=message):
            loop(*left_out)
    assert [tick["step"] for tick in loop().timeline] == [0, 3, 6, 9]
    assert "was to have" not in caplog.text
    loop(steps=5)
    assert "the training had 5 steps and was to have 12: of 4 ticks 2 came" in caplog.text


def test_a_batch_may_be_left_out_and_ticks_once(bound: Bound):
    adapted = lorakit.adapt(bound.model(), rank=2)
    search = lorakit.Search("heterolora", adapted, budget=0.5, every=0.5, batches=1, **bound.scored)
    search.begin(torch.optim.AdamW(adapted.groups(lr=1e-3)), steps=12, steps_per_epoch=6)
    assert [search.before_step(), search.before_step()] == [True, False]
    search.after_backward()
    search.after_step()
    assert len(search.timeline) == search.state.step == 1


def test_lightning_chooses_as_lorakit_train_does_and_goes_on_from_its_checkpoint(bound: Bound, tmp_path: Path):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra 'lightning'")

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, adapted: Adapted):
            super().__init__()
            self.adapted, self.model = adapted, adapted.model

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(**batch).loss
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.adapted.groups(lr=3e-2))

    keep = lightning.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    quiet = {
        "default_root_dir": tmp_path,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    for begun, order in ((None, bound.epochs), (tmp_path / "step=6.ckpt", bound.epochs[1:])):
        search = lorakit.Search("heterolora", lorakit.adapt(bound.model(), **ADAPTER), **SEARCH, **bound.scored)
        callbacks = [search.lightning_callback(), *([] if begun else [keep])]
        trainer = lightning.Trainer(max_epochs=EPOCHS, gradient_clip_val=1.0, callbacks=callbacks, **quiet)
        loader = DataLoader(bound.rows, batch_sampler=InOrder(order), collate_fn=bound.collate)  # type: ignore[arg-type]
        trainer.fit(Module(search.adapted), loader, ckpt_path=begun)
        torch.testing.assert_close(*bound.chosen_alike(search), rtol=1e-4, atol=1e-4)
