"""One DyLoRA run at every rank: evaluation, prediction, merging, and what cannot be cut."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import Bench, records
from support.thinned import thinned

import lorakit
from lorakit.adapters.adapter import Adapter
from lorakit.artifacts.files import read_json, write_json
from lorakit.errors import UsageError
from lorakit.workflow.predict import Classifier
from lorakit.workflow.restore import restore_run
from lorakit.workflow.train import TrainResult

RANK, ALPHA = 4, 16.0
DYLORA = ("search.method=dylora", "adapter.alpha=16", "adapter.dropout=0", "training.lr=0.02")


@pytest.fixture(scope="module")
def dylora(bench: Bench) -> TrainResult:
    return bench.train(*DYLORA, name="dylora")


def by_hand(bench: Bench, run: Path, rank: int) -> TrainResult:
    """A plain LoRA run of rank K whose tensors are B[:, :K] and A[:K]."""
    plain = bench.train(*DYLORA[1:], f"adapter.rank={rank}", "training.max_steps=1", name=f"rank-{rank}")
    file = plain.run_dir / "adapter" / "adapter_model.safetensors"
    trained = load_file(run / "adapter" / "adapter_model.safetensors")
    cut = {
        name: (t[:rank] if "lora_A" in name else t[:, :rank] if "lora_B" in name else t).contiguous()
        for name, t in trained.items()
    }
    assert {name: t.shape for name, t in cut.items()} == {name: t.shape for name, t in load_file(file).items()}
    save_file(cut, file)
    return plain


def logits(classifier: Classifier) -> torch.Tensor:
    inputs = classifier.tokenizer(["good sun", "the dog is warm"], return_tensors="pt", padding=True)
    with torch.no_grad():
        return classifier.objective.logits(classifier.model, inputs)


@pytest.mark.parametrize("rank", thinned([1, 2, 3], 3))
def test_it_is_a_lora_of_that_rank(bench: Bench, dylora: TrainResult, rank: int) -> None:
    plain = by_hand(bench, dylora.run_dir, rank)
    torch.testing.assert_close(
        logits(lorakit.load(dylora.run_dir, rank=rank)), logits(lorakit.load(plain.run_dir)), rtol=1e-5, atol=1e-6
    )
    ours = lorakit.evaluate(dylora.run_dir, task="custom", rank=rank)
    theirs = lorakit.evaluate(plain.run_dir, task="custom")
    assert ours.scores == theirs.scores
    assert f"rank {rank}" in ours.source


def test_all_ranks_are_the_run_itself(dylora: TrainResult) -> None:
    assert lorakit.evaluate(dylora.run_dir, task="custom", rank=RANK).scores == dylora.last
    assert lorakit.evaluate(dylora.run_dir, task="custom").scores == dylora.last
    assert lorakit.merge(dylora.run_dir).largest_difference < 1e-4


def test_a_budget_ends_at_its_rank_and_scale(bench: Bench) -> None:
    """Its scale is not the one that the recipe's rank gives: it is read back."""
    settings = (*DYLORA, "search.uniform_rank=3", "adapter.shortcuts=[res1]")
    run = bench.train(*settings, name="dylora-3")
    sites = read_json(run.run_dir / "adapter" / "lorakit.json")["sites"]
    assert {(site["rank"], site["scale"]) for site in sites} == {(3, ALPHA / 3)}
    assert lorakit.evaluate(run.run_dir, task="custom").scores == run.last
    assert lorakit.merge(run.run_dir).largest_difference < 1e-4
    torch.testing.assert_close(
        logits(lorakit.load(run.run_dir / "merged")), logits(lorakit.load(run.run_dir)), rtol=1e-5, atol=1e-5
    )
    again = bench.train(*settings, name="dylora-3-again")
    assert records(again.run_dir) == records(run.run_dir)


def test_a_product_is_cut_to_its_best_approximation(finished: TrainResult, caplog: pytest.LogCaptureFixture) -> None:
    """By the dense updates' singular values (Eckart & Young), at the scale that each has."""
    with caplog.at_level(logging.WARNING, logger="lorakit"):
        whole, cut = (restore_run(finished.run_dir, None, rank=rank).adapted for rank in (None, 1))
    assert not caplog.records
    assert cut.in_function == whole.in_function != []
    for name in whole.in_function:
        before, after = whole.adapters[name], cut.adapters[name]
        assert (before.units.live > 1, after.units.live, after.scale) == (True, 1, before.scale)
        u, values, vt = torch.linalg.svd(before.delta.dense().detach())
        torch.testing.assert_close(
            after.delta.dense().detach(), values[0] * torch.outer(u[:, 0], vt[0]), rtol=1e-4, atol=1e-6
        )
        assert_saved_whole(after)
    rank = max(adapter.units.live for adapter in whole.adapters.values())
    assert rank * cut.adapter_parameters() == whole.adapter_parameters()


def assert_saved_whole(adapter: Adapter) -> None:
    """The live units' tensors alone are the update."""
    parts = {name: adapter.units.live_part(name, tensor.detach()) for name, tensor, _ in adapter.tensors()}
    assert parts["A"].shape[0] == parts["B"].shape[1] == adapter.units.live
    torch.testing.assert_close(parts["B"] @ parts["A"], adapter.delta.dense().detach(), rtol=1e-5, atol=1e-7)


def test_what_is_no_plain_product_is_cut_with_a_word(
    bench: Bench, dylora: TrainResult, caplog: pytest.LogCaptureFixture
) -> None:
    other = bench.train("adapter.method=adalora", "training.max_steps=1", name="no-product")
    with caplog.at_level(logging.WARNING, logger="lorakit"):
        lorakit.load(dylora.run_dir, rank=2)
        assert not caplog.records
        lorakit.load(other.run_dir, rank=1)
    assert "not trained to be cut to rank 1" in caplog.text


def test_one_rank_is_merged_and_exported(dylora: TrainResult, tmp_path: Path) -> None:
    ours = logits(lorakit.load(dylora.run_dir, rank=2))
    assert lorakit.merge(dylora.run_dir, out=tmp_path / "merged", rank=2).largest_difference < 1e-4
    torch.testing.assert_close(logits(lorakit.load(tmp_path / "merged")), ours, rtol=1e-4, atol=1e-5)
    assert lorakit.export(dylora.run_dir, out=tmp_path / "peft", rank=2).ranks == (2, 2)
    config = read_json(tmp_path / "peft" / "adapter_config.json")
    assert (config["r"], config["lora_alpha"]) == (2, ALPHA)
    assert {tuple(pattern.values()) for pattern in (config["rank_pattern"],)} <= {(), (2,) * 4}


@pytest.mark.parametrize("rank", [0, -1, RANK + 1])
def test_a_rank_that_is_not_there(dylora: TrainResult, rank: int) -> None:
    with pytest.raises(UsageError, match=rf"(?s)no rank {rank}\b.*1 to {RANK}"):
        lorakit.evaluate(dylora.run_dir, task="custom", rank=rank)


def test_what_has_no_ranks(bench: Bench, dylora: TrainResult, tmp_path: Path) -> None:
    run = bench.train("adapter.method=bitfit", "training.max_steps=1", "adapter.dropout=0", name="no-ranks")
    with pytest.raises(UsageError, match="no rank units"):
        lorakit.evaluate(run.run_dir, task="custom", rank=1)
    with pytest.raises(UsageError, match="no ranks to choose"):
        lorakit.evaluate(task="mrpc", model="bert-base-uncased", rank=1)
    merged = tmp_path / "merged"
    lorakit.merge(dylora.run_dir, out=merged)
    with pytest.raises(UsageError, match="no ranks to choose"):
        lorakit.load(merged, rank=1)


def test_a_scale_is_read_back(finished: TrainResult, copied: Path) -> None:
    before = logits(lorakit.load(copied))
    path = copied / "adapter" / "lorakit.json"
    told = read_json(path)
    for site in told["sites"]:
        site["scale"] *= 3
    write_json(path, told)
    assert not torch.allclose(logits(lorakit.load(copied)), before)
