"""A training on states that are kept is the one that computes them anew, to the bit; what is kept is whole, found again, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.processes import lorakit_on_two
from support.runs import Bench, StopAt, records, without
from torch.testing import assert_close

import lorakit
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted
from lorakit.tasks.batching import PARTS
from lorakit.training import frozen_states
from lorakit.training.frozen_states import FrozenStates, make_room
from lorakit.workflow.records import read_run

FROZEN = ("training.freeze_below=1", "adapter.dropout=0.2", "training.lr=0.02")
ANEW = "training.freeze_cache=0"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAKIT_CACHE_DIR", str(folder))
        yield folder


def outcome(run: Path) -> dict[str, Any]:
    """All that a run came to, but for how its states were had."""
    found = records(run)
    return found | {"summary": without(found["summary"], ("frozen",))}


@pytest.fixture(scope="module")
def kept(bench: Bench, cache: Path) -> dict[str, Any]:
    run = bench.train(*FROZEN).run_dir
    assert read_json(run / "summary.json")["frozen"]["bytes"] > 0
    return outcome(run)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        pytest.param((), {}, marks=pytest.mark.slow),
        (("training.micro_tokens=30", "training.accumulate=2"), {}),
        pytest.param(("task.long=windows", "task.max_length=7"), {}, marks=pytest.mark.slow),
        pytest.param(("training.freeze_dtype=float16",), {"kind": "pair"}, marks=pytest.mark.slow),
        (("training.freeze_dtype=bfloat16", "training.gradient_checkpointing=true"), {"family": "llama"}),
        (("training.precision=bf16",), {}),
        (("search.method=heterolora", "search.every=0.5", "search.enable=0.6", "adapter.targets=[q,v,up]"), {}),
    ],
    ids=["plain", "in parts", "windows", "float16", "bfloat16", "autocast", "search"],
)
def test_kept_and_computed_anew_are_the_same_to_the_bit(
    bench: Bench, settings: tuple[str, ...], options: dict[str, str]
):
    with_cache = bench.train(*FROZEN, *settings, **options)
    anew = bench.train(*FROZEN, *settings, ANEW, **options)
    assert with_cache.frozen["bytes"] > anew.frozen["bytes"] == 0
    assert outcome(with_cache.run_dir) == outcome(anew.run_dir)


def test_rounding_is_that_of_the_storage(bench: Bench, kept: dict[str, Any]):
    rounded = bench.train(*FROZEN, "training.freeze_dtype=float16")
    weights = [name for name in kept if name.endswith(".safetensors")]
    assert any(outcome(rounded.run_dir)[name] != kept[name] for name in weights)
    whole = bench.train(*FROZEN, "training.freeze_dtype=float32")  # as they come
    assert outcome(whole.run_dir) == kept
    assert rounded.frozen["bytes"] * 2 == whole.frozen["bytes"]


def test_it_is_the_training_of_the_upper_layers_alone(bench: Bench):
    """Without dropout anywhere: the same losses as with adapters on these layers and the whole model in every step, to rounding."""
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still = ("adapter.dropout=0", "run.log_every=1", f"model.name={backbone}")
    frozen = bench.train(*still, "training.freeze_below=1")
    plain = bench.train(*still, "adapter.targets=['layer.1.attention.self.(query|value)']")
    assert frozen.adapter_parameters == plain.adapter_parameters
    losses = [[r["loss"] for r in read_jsonl(run.run_dir / "metrics.jsonl") if "loss" in r] for run in (frozen, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    ours, theirs = (load_file(run.run_dir / "adapter" / "adapter_model.safetensors") for run in (frozen, plain))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-4)


def test_steps_do_not_compute_the_lower_layers(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path, *FROZEN)
    calls = []
    lower, upper = (layer for _, layer in training.adapted.backbone.anatomy.layers)
    for name, layer in (("lower", lower), ("upper", upper)):
        layer.get_submodule("attention").register_forward_pre_hook(lambda module, args, name=name: calls.append(name))
    batch = next(iter(training.loader.step_batches(0))).batches[0]
    training.loss(training.model, batch)
    assert calls == ["upper"]
    training.objective.mean(training.model, {key: value for key, value in batch.items() if key != PARTS})
    assert calls == ["upper", "lower", "upper"]


def test_found_again_whole_or_not_at_all(
    bench: Bench, kept: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
):
    fills = []
    fill = FrozenStates.fill
    monkeypatch.setattr(FrozenStates, "fill", lambda self, folder: (fills.append(folder), fill(self, folder))[1])
    assert outcome(bench.train(*FROZEN).run_dir) == kept
    assert not fills
    for file in cache.glob("states-*/states.bin"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    assert outcome(bench.train(*FROZEN).run_dir) == kept
    assert len(fills) == 1


def test_a_fill_that_is_cut_short_leaves_nothing_to_believe(
    bench: Bench, kept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    compute = FrozenStates.compute

    def cut_short(self: FrozenStates, parts: Any) -> Iterator[Any]:
        for done, found in enumerate(compute(self, parts)):
            if done == 20:
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(FrozenStates, "compute", cut_short)
        with pytest.raises(KeyboardInterrupt):
            bench.train(*FROZEN)
    assert not list((tmp_path / "cache").glob("states-*"))
    assert outcome(bench.train(*FROZEN).run_dir) == kept


def test_entries_are_named_by_all_that_states_depend_on(bench: Bench, tmp_path: Path):
    def key(*overrides: str, **options: str) -> str:
        states = bench.prepare(tmp_path, "training.freeze_below=1", *overrides, **options).states
        assert states is not None
        return states.key()

    first = key()
    assert key("training.lr=1e-5", "run.seed=3", "adapter.targets=[k]", "adapter.rank=2") == first
    others = [
        key("task.max_length=9"),
        key("task.max_train_rows=44"),
        key("training.freeze_dtype=float16"),
        key("training.precision=bf16"),
        key("model.attention=eager"),
        key(f"model.name={bench.backbone(hidden_act='relu')}"),
    ]
    assert len({first, *others}) == 7


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(frozen_states, "GIB", 100)
    for age, name in enumerate(("states-new", "states-kept", "states-old", "tokens-old", "states-x.part")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"0" * 60)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    make_room(1.3, "states-kept")
    assert {path.name for path in tmp_path.iterdir()} == {"states-new", "states-kept", "tokens-old", "states-x.part"}
    make_room(0, "states-kept")
    assert {path.name for path in tmp_path.iterdir()} == {"states-kept", "tokens-old", "states-x.part"}


def test_nothing_is_kept_where_rows_are_seen_once_or_there_is_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    once = bench.train(*FROZEN, "training.epochs=1")
    assert once.frozen["bytes"] == 0
    monkeypatch.setattr(frozen_states, "free_bytes", lambda: 100)
    full = bench.train(*FROZEN)
    assert full.frozen["bytes"] == 0


def test_a_disk_that_fills_up_is_no_end(
    bench: Bench, kept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))

    def fill(self: FrozenStates, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FrozenStates, "fill", fill)
    result = bench.train(*FROZEN)
    assert result.frozen["bytes"] == 0
    assert outcome(result.run_dir) == kept


@pytest.mark.parametrize("settings", [(), (ANEW,)], ids=["kept", "anew"])
def test_resumed_is_never_stopped(bench: Bench, kept: dict[str, Any], tmp_path: Path, settings: tuple[str, ...]):
    """Also where what may be kept has changed meanwhile."""
    with pytest.raises(Interrupted):
        bench.train(*FROZEN, run_dir=tmp_path / "run", hooks=[StopAt(7)])
    torch.manual_seed(99)
    bench.train(*FROZEN, *settings, run_dir=tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == kept


def test_the_run_is_like_any_other(bench: Bench):
    result = bench.train(*FROZEN)
    evaluated = lorakit.evaluate(result.run_dir, task="custom")
    assert evaluated.scores[result.metric] == result.last[result.metric]
    assert lorakit.merge(result.run_dir).largest_difference < 1e-4
    assert (result.sites_total, result.frozen["layers"], result.frozen["of"]) == (2, 1, 2)
    assert read_run(Run(result.run_dir)).outcome.frozen.startswith(
        "1 of 2 layers were frozen, and run once a row, which took "
    )


@pytest.mark.slow
def test_two_processes_are_one(bench: Bench, tmp_path: Path):
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = (
        "training.freeze_below=1",
        "adapter.dropout=0",
        "training.lr=1e-3",
        "training.batch_size=6",
        f"model.name={backbone}",
    )
    alone = bench.train(*settings)
    lorakit_on_two("train", str(bench.load().path), *settings, "--run-dir", str(tmp_path / "run"))
    assert read_json(tmp_path / "run" / "summary.json")["frozen"]["bytes"] == alone.frozen["bytes"] > 0
    ours, theirs = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (alone.run_dir, tmp_path / "run")
    )
    for name, tensor in ours.items():
        assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-6)
