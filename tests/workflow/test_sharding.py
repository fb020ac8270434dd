"""FSDP: the frozen matrices in shards, the same training; and what is refused under it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from support.processes import FSDP, assert_same_run, launch, on_cpu
from support.runs import SEARCH, Bench, records
from torch import nn
from torch.distributed.tensor import DTensor

import lorakit
from lorakit.errors import RecipeError, UsageError
from lorakit.training.gradients import average_gradients
from lorakit.workflow.accelerator import make_accelerator, this_process
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.sharding import check_model, kept_whole, launched_for_training, shard

# As in test_processes: an odd number of rows, a last batch of one row, and no dropout, whose masks would differ.
STILL = ("adapter.dropout=0", "training.lr=1e-3", "task.max_train_rows=43", "task.max_eval_rows=29")
STILL = (*STILL, "training.batch_size=6", "training.accumulate=2", "evaluation.batch_size=4", "search.every=0.5")
SEARCHED = (*SEARCH, "search.enable=0.5")
UNITS = ("adapter.targets=[q,v,up]", "search.enable=0.5")
WAYS = {
    "lora": ("search.method=none", "training.micro_tokens=20"),
    "dora": ("search.method=none", "adapter.method=dora", "training.average=0.4"),
    "separate": SEARCHED,
    "streaming": (*SEARCHED, "search.scoring=streaming"),
    "recomputed": (*SEARCHED, "search.scoring=streaming", "training.gradient_checkpointing=true"),
    "adalora": (*UNITS, "search.method=adalora", "adapter.method=adalora"),
}
OF_BERT = {
    "all shortcuts": (*SEARCHED, "adapter.shortcuts=[res1,res2,mid,in,cut]", "adapter.shortcut_norm=paper"),
    "squeezed dora": (*UNITS, "search.method=squeeze", "adapter.method=dora"),
    "pissa": ("search.method=none", "adapter.method=pissa"),
    "lora_ga": ("search.method=none", "adapter.method=lora_ga"),
    "norms": ("search.method=none", "adapter.method=layer_norm"),
    "found": (*SEARCHED, "training.lr=auto"),
    "half": ("search.method=none", "model.dtype=bfloat16"),
    "recomputed mixture": ("search.method=none", "adapter.method=mixlora", "training.gradient_checkpointing=true"),
}


@pytest.fixture
def one_of_one(tmp_path: Path) -> Iterator[None]:
    """This process is a group of processes."""
    this_process()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.usefixtures("one_of_one")
def test_matrices_are_sharded_and_the_function_and_gradients_stay(bench: Bench, family: str):
    """DoRA reads its layers' weights, which are dense within their own calls alone; shortcuts cross the layers."""
    settings = ("adapter.method=dora", "adapter.dropout=0", "adapter.shortcuts=[res1,mid,cut]", "search.method=none")
    loaded = bench.load(*settings, family=family)
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 5, 6, 3, 3]])
    found = {}
    for sharded in (False, True):
        parts = assemble(loaded)
        adapted = adapt(parts)
        if sharded:
            whole = kept_whole(adapted)
            shard(adapted, make_accelerator(parts.recipe))
        adapted.model.eval()
        with torch.no_grad():
            for number, tensor in enumerate(adapted.trained()):
                tensor.parameter.add_(torch.randn(tensor.parameter.shape, generator=torch.manual_seed(number)) / 10)
        logits = adapted.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        logits.square().sum().backward()
        found[sharded] = logits, [tensor.parameter.grad for tensor in adapted.trained()]
    assert torch.equal(found[True][0], found[False][0])
    for ours, theirs in zip(found[True][1], found[False][1], strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs)
    parameters = dict(adapted.model.named_parameters())
    assert {tensor.parameter for tensor in adapted.trained()} <= whole <= {*parameters.values()}
    for name, parameter in parameters.items():
        frozen_matrix = parameter.ndim > 1 and not parameter.requires_grad
        assert isinstance(parameter, DTensor) == frozen_matrix == (parameter not in whole), name


def test_gradients_are_the_mean_over_the_processes():
    """Of two: both have the first one's, the other alone the second one's, and none the third one's."""
    first, second, third = (nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (2,)))
    first.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    others = torch.tensor([1.0, 1, 1, 1, 6, 8, 10, 0, 0, 1, 1, 0])

    def add_the_other(flat: torch.Tensor) -> None:
        flat += others / 2

    with (
        mock.patch.object(torch.distributed, "get_world_size", return_value=2),
        mock.patch.object(torch.distributed, "all_reduce", add_the_other),
    ):
        average_gradients([first, second, third])
    assert torch.equal(first.grad, torch.tensor([[1.0, 1.5], [2.0, 2.5]]))
    assert second.grad is not None
    assert torch.equal(second.grad, torch.tensor([3.0, 4.0, 5.0]))
    assert third.grad is None


@pytest.mark.parametrize(
    ("options", "message", "told"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP version 1 is not possible", "--use_fsdp --fsdp_version 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params=true is not followed", "model.dtype=bfloat16"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, "is not followed", ""),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "is not followed", "training.gradient_checkpointing=true"),
    ],
)
def test_what_accelerate_was_told_and_is_not_done_is_refused(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, options: dict[str, str], message: str, told: str
):
    for name, value in (FSDP | options).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message) as caught:
        lorakit.train(bench.load())
    assert told in caught.value.problems[0].hint


def test_only_trainings_shard(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    """Within one, what is loaded and placed is as under data parallel; one process has nothing to share."""
    with launched_for_training() as sharded:
        assert not sharded
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    with launched_for_training() as sharded:
        assert not sharded
        assert make_accelerator(bench.load().recipe).num_processes == 1
    with pytest.raises(UsageError, match="only lorakit train shards a model") as caught:
        make_accelerator(bench.load().recipe)
    assert "--use_fsdp --fsdp_version 2" in caught.value.problems[0].valid
    with pytest.raises(UsageError, match="only lorakit train shards"):
        lorakit.train_folds(bench.load(), folds=2)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("model.quantization=nf4", "model.quantization"),
        ("training.freeze_below=1", "training.freeze_below"),
        ("search.method=gradsvd", "search.method"),
        ("search.proxy=synflow", "search.proxy"),
        ("adapter.method=loraprune", "adapter.updates"),
    ],
)
def test_what_needs_frozen_weights_whole_in_training_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, setting: str, key: str
):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    searched = ("search.method=heterolora",) if key == "search.proxy" else ()
    with (
        mock.patch("lorakit.workflow.sharding.this_process", return_value=mock.Mock(num_processes=2)),
        mock.patch("lorakit.workflow.train.assemble", side_effect=AssertionError("loaded")),
        pytest.raises(RecipeError) as caught,
    ):
        lorakit.train(bench.load(*searched, setting))
    assert [problem.key for problem in caught.value.problems] == [key]


def test_models_that_cannot_be_sharded_are_refused(bench: Bench):
    model = assemble(bench.load("search.method=none")).backbone.model
    check_model(model)
    model.config.encoder_layerdrop = 0.1
    with pytest.raises(RecipeError, match="leaves layers out at random"):
        check_model(model)
    pytest.importorskip("bitsandbytes")
    with pytest.raises(RecipeError, match="kept in buffers, which FSDP leaves whole"):
        check_model(assemble(bench.load("search.method=none", "model.quantization=nf4")).backbone.model)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_two_processes_are_one(bench: Bench, tmp_path: Path, family: str):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if family == "bert" else {}
    backbone, ways = bench.backbone(family, **still), WAYS | (OF_BERT if family == "bert" else {})
    recipe, jobs, runs = str(bench.load(family=family).path), [], {}
    for way, overrides in ways.items():
        settings = [*STILL, *overrides, f"model.name={backbone}"]
        jobs.append({"recipe": recipe, "overrides": settings, "run": str(tmp_path / way), "stops": []})
        runs[way] = bench.train(*settings, family=family).run_dir
    assert not launch(tmp_path, jobs, sharded=True)
    for way, alone in runs.items():
        assert_same_run(alone, tmp_path / way)
    scores = [lorakit.evaluate(run).scores for run in (runs["dora"], tmp_path / "dora")]
    assert scores[0] == scores[1]
    assert lorakit.merge(tmp_path / "dora", out=tmp_path / "merged").flips == 0


@pytest.mark.slow
def test_a_sharded_run_stops_and_goes_on(bench: Bench, tmp_path: Path):
    """Bit-identical, dropout included, although the one who stops it tells one process."""
    recipe, jobs = str(bench.load().path), []
    overrides = (
        *SEARCH,
        "adapter.dropout=0.2",
        "search.scoring=streaming",
        "search.every=0.5",
        "training.accumulate=2",
    )
    for name, stops in (("whole", []), ("stopped", [2, 5])):
        jobs.append({"recipe": recipe, "overrides": overrides, "run": str(tmp_path / name), "stops": stops})
    assert not launch(tmp_path, jobs, sharded=True)
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")


@pytest.mark.slow
def test_the_command_that_messages_name(bench: Bench, tmp_path: Path):
    recipe, run = str(bench.load("search.method=none").path), tmp_path / "run"
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    options = ["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2", "--num_machines", "1"]
    command = [*launcher, *options, "-m", "lorakit", "train", recipe, "--run-dir", str(run)]
    subprocess.run(command, check=True, env=on_cpu(), timeout=300)
    assert lorakit.evaluate(run).scores
