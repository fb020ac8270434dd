"""Delta-LoRA against its rule with dense pushes, step by step; what it does not go with; saved, merged, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench
from torch.testing import assert_close

import lorakit
from lorakit.errors import RecipeError
from lorakit.training import loop
from lorakit.workflow.setup import assemble

PUSH, SCALE = 0.8, 4.0
BOTH = ("adapter.dropout=0", "adapter.targets=[q,up]", "adapter.alpha=16", "training.weight_decay=0.1")
OURS = ("adapter.method=delta_lora", *BOTH)


def in_double(training: Any) -> Any:
    training.adapted.model.double()
    return training


@pytest.mark.parametrize("start", [0, 3])
def test_it_is_the_rule_with_dense_pushes_step_by_step(bench: Bench, tmp_path: Path, start: int):
    """Beside a LoRA whose frozen weights are moved by hand: W += lambda s (B_t+1 A_t+1 - B_t A_t) after every step t >= K."""
    options = f"adapter.update_options={{push: {PUSH}, start: {start}}}"
    ours = in_double(bench.prepare(tmp_path / "ours", *OURS, options))
    plain = in_double(bench.prepare(tmp_path / "plain", *BOTH))
    adapters = plain.adapted.adapters
    assert {adapter.scale for adapter in adapters.values()} == {SCALE}
    before = {name: adapter.base.weight.clone() for name, adapter in adapters.items()}
    moved = 0.0
    for t, step_batch in enumerate(list(plain.loader.step_batches(0))[:6]):
        old = {name: (adapter.delta.B @ adapter.delta.A).detach() for name, adapter in adapters.items()}
        loop.step(plain, step_batch)
        for name, adapter in adapters.items():
            if t >= start:
                adapter.base.weight.data += PUSH * SCALE * (adapter.delta.B @ adapter.delta.A - old[name]).detach()
        loop.step(ours, step_batch)
        values = ours.adapted.tensors()
        for name, tensor in plain.adapted.tensors().items():
            assert_close(values[name], tensor, rtol=1e-7, atol=1e-10)
        for name, adapter in adapters.items():
            twin = ours.adapted.adapters[name]
            assert torch.equal(twin.base.weight, before[name])
            assert_close(twin.effective_weight(before[name]), adapter.effective_weight(adapter.base.weight))
            moved = max(moved, float((adapter.base.weight - before[name]).abs().max()))
    assert moved > 1e-3


@pytest.mark.slow
def test_saved_merged_and_exported(bench: Bench):
    """PEFT has it as a LoRA of twice the rank."""
    run = bench.train(*OURS).run_dir
    saved = load_file(run / "adapter" / "lorakit_model.safetensors")
    assert {float(tensor) for name, tensor in saved.items() if name.endswith(".push")} == {2.0}
    assert lorakit.merge(run).largest_difference < 1e-4
    exported = lorakit.export(run)
    assert exported.ranks == (8, 8)
    assert exported.largest_difference < 1e-4


def test_a_push_of_zero_is_lora(bench: Bench, tmp_path: Path):
    results = []
    for name, settings in (("none", (*OURS, "adapter.update_options={push: 0, start: 2}")), ("lora", BOTH)):
        training = in_double(bench.prepare(tmp_path / name, *settings))
        for step_batch in list(training.loader.step_batches(0))[:4]:
            loop.step(training, step_batch)
        results.append({n: t for n, t in training.adapted.tensors().items() if "start" not in n and "push" not in n})
    assert_close(results[0], results[1], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (("adapter.dropout=0.1",), "dropout hides some from B A"),
        (("search.method=sora",), "search 'sora' chooses among them"),
        (("adapter.method=lora", "adapter.updates=[delta_lora]"), "keeps what it needs in delta 'pushed'"),
        (("training.average=0.5",), "a mean over steps would undo that"),
        (("adapter.start=elsewhere",), "would write over what it has kept"),
    ],
)
def test_refusals_when_the_recipe_is_read(bench: Bench, settings: tuple[str, ...], match: str):
    with pytest.raises(RecipeError, match=match):
        assemble(bench.load(*OURS, *settings))


def test_a_start_after_the_end_is_refused(bench: Bench, tmp_path: Path):
    with pytest.raises(RecipeError, match="would begin after step 12, and this training has 12"):
        bench.prepare(tmp_path, *OURS, "adapter.update_options={start: 12}")
