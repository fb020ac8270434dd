"""CUDA graphs: where they are refused, and, on a GPU, that a replayed step is the step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.runs import SEARCH, Bench, records

from lorakit.errors import RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.searching.allocator import Allocator, allocators
from lorakit.searching.allocators.heterolora import HeteroLoRA
from lorakit.training import graphs
from lorakit.training.hooks import Hook
from lorakit.training.update import updates as all_updates

REASONS = [
    ("training.accumulate=2", "training.accumulate"),
    ("training.micro_tokens=64", "training.micro_tokens"),
    ("training.freeze_below=1", "training.freeze_below"),
    ("task.long=windows", "task.long=windows"),
    ("training.gradient_checkpointing=true", "training.gradient_checkpointing"),
]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON = "training.cuda_graphs=true"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_refused_without_a_gpu(bench: Bench):
    with pytest.raises(
        RecipeError, match=r"this device \(cpu and not cuda\), training\.micro_tokens, task\.long=windows"
    ):
        bench.train(ON, "training.micro_tokens=64", "task.long=windows", "task.max_length=8")


def test_chosen_where_steps_can_be_replayed(bench: Bench):
    assert chosen(bench.load().recipe)
    assert not chosen(bench.load("training.cuda_graphs=false").recipe)
    assert not chosen(bench.load().recipe, device="cpu")
    assert not chosen(bench.load().recipe, processes=2)


@pytest.mark.parametrize(("setting", "reason"), REASONS)
def test_left_out_where_they_cannot(bench: Bench, setting: str, reason: str):
    recipe = bench.load(setting).recipe
    assert not chosen(recipe)
    recipe.training.cuda_graphs = True
    with pytest.raises(RecipeError, match=f"do not go together with {reason}"):
        chosen(recipe)


def chosen(recipe: Recipe, device: str = "cuda", processes: int = 1, *, unpadded: str = "") -> bool:
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes, scaler=None)
    return graphs.use_graphs(recipe, accelerator, SimpleNamespace(), [Hook()], unpadded=unpadded)


@pytest.mark.parametrize(("positions", "why"), [(15, "positions for 15 tokens, and rows of 16"), (16, "")])
def test_left_out_where_rows_are_not_to_be_padded(bench: Bench, tmp_path: Path, positions: int, why: str):
    """Rows of up to 14 tokens are padded to 16; some models take padding for text."""
    backbone = bench.backbone("bert", max_position_embeddings=positions)
    training = bench.prepare(tmp_path, f"model.name={backbone}")
    model, rows = training.adapted.model, training.loader.encoded
    found = graphs.against_padding(model, rows)
    assert why in found
    assert bool(found) == bool(why)
    assert chosen(training.recipe, unpadded=found) == (not why)
    equal = replace(rows, padding=replace(rows.padding, equal=True))
    assert graphs.against_padding(model, equal) == "a model that takes padding for text"


def test_a_step_that_cannot_be_captured_is_computed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    weight = torch.nn.Parameter(torch.ones(2))
    trained = [SimpleNamespace(parameter=weight)]
    model = torch.nn.Module()
    model.weight = weight
    adapted = SimpleNamespace(trained=lambda: trained, adapters={}, model=model, states=dict)
    replayed = graphs.Graphs(adapted)

    def compute(batch):
        loss = (weight * batch["rows"]).sum()
        loss.backward()
        return loss.detach()

    def capture(self, compute, batch):
        compute(batch)  # what is done before the capture fails leaves gradients that are none
        raise RuntimeError("operation not permitted when stream is capturing\nand much more")

    monkeypatch.setattr(graphs.Graphs, "capture", capture)
    for _ in range(graphs.EAGER + 2):
        weight.grad = None
        assert replayed.run(compute, {"rows": torch.tensor([1.0, 2.0])}) == 3
        assert weight.grad.tolist() == [1, 2]
    told = [record.message for record in caplog.records]
    assert told == [
        "no CUDA graph can be taken of a step (operation not permitted when stream is capturing): steps are slower, and the same"
    ]


def test_what_acts_before_every_step_is_not_steady():
    kinds = [*(allocators.get(name) for name in allocators.names()), *updates()]
    acting = [k for k in kinds if k.before_forward not in (Hook.before_forward, Allocator.before_forward)]
    assert len(acting) > 3
    assert [k for k in acting if k.steady] == [HeteroLoRA]  # whose watched steps are computed without a graph


def updates() -> list[type[Hook]]:
    return [all_updates.get(name) for name in all_updates.names()]


@GPU
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("adapter.method=dora",),
        ("training.precision=bf16",),
        SEARCH,
        (*SEARCH, "search.scoring=streaming"),
        ("adapter.method=adalora", "search.method=adalora", "search.every=0.3"),
        ("search.method=gradsvd",),
    ],
    ids=["lora", "dora", "bf16", "heterolora", "streaming", "adalora", "gradsvd"],
)
def test_a_replayed_step_is_the_step(bench: Bench, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """Dropout, gradients and all: the same run to the bit as with the graphs left out."""
    long = (*settings, ON, "adapter.dropout=0.2", "training.epochs=6")
    replayed = records(bench.train(*long).run_dir)
    monkeypatch.setattr(graphs, "EAGER", 10**9)
    assert records(bench.train(*long).run_dir) == replayed


@GPU
def test_graphs_are_used(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    replays = []
    monkeypatch.setattr(graphs.Captured, "replay", counted(graphs.Captured.replay, replays))
    bench.train(ON, "training.epochs=6")
    assert replays


def counted(method, calls):
    def counting(*arguments):
        calls.append(arguments)
        return method(*arguments)

    return counting


@GPU
def test_refused_with_accumulation(bench: Bench):
    with pytest.raises(RecipeError, match=r"training\.accumulate"):
        bench.train(ON, "training.accumulate=2")
