"""SparseAdapter's pruning: the ranking by hand, the number kept exactly, and zero for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench
from support.thinned import thinned
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.adapters.json_tensors import unpack
from lorakit.artifacts.files import read_json
from lorakit.training import loop
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.updates.sparse_mask import SparseMask
from lorakit.workflow.setup import assemble

MASKED = ("adapter.updates=[sparse_mask]", "adapter.targets=[q,v,up]")
ENTRIES = 2 * 4 * (64 + 64 + 80)  # two layers, rank 4: q and v of 32 x 32, up of 48 x 32


def masked(bench: Bench, folder: Path, options: str, *overrides: str) -> tuple[Any, SparseMask]:
    training = bench.prepare(folder, *MASKED, f"adapter.update_options={{{options}}}", "adapter.dropout=0", *overrides)
    (update,) = training.hooks
    assert isinstance(update, SparseMask)
    return training, update


class ZeroWhereMasked(Hook):
    """After every step, and at every evaluation, pruned entries are zero, and some of the others moved."""

    def __init__(self) -> None:
        self.update: SparseMask
        self.seen = 0

    def after_step(self, state: TrainState) -> None:
        for tensor in self.update.tensors:
            assert not tensor.parameter[~self.update.masks[tensor.name]].any()
            self.seen += int(tensor.parameter.count_nonzero())


@pytest.mark.parametrize(("keep", "number"), thinned([(0.25, 416), (0.1, 166), (0.5, 832), (1, 1664)], 3))
@pytest.mark.parametrize("score", ["snip", "magnitude", "random"])
def test_exactly_the_share_is_kept(bench: Bench, tmp_path: Path, keep: float, number: int, score: str):
    assert ENTRIES == 1664  # a tenth is 166.4
    _, update = masked(bench, tmp_path, f"keep: {keep}, score: {score}")
    masks = update.choose()
    assert sum(int(mask.sum()) for mask in masks.values()) == number
    assert {name: mask.shape for name, mask in masks.items()} == {t.name: t.parameter.shape for t in update.tensors}


def test_pruned_entries_stay_zero_whatever_momentum_and_decay_do(bench: Bench, tmp_path: Path):
    watch = ZeroWhereMasked()
    settings = ("training.weight_decay=0.5", "training.lr=0.05", "training.epochs=2")
    training = bench.prepare(tmp_path / "run", *MASKED, *settings, hooks=[watch])
    watch.update = training.hooks[0]  # type: ignore[assignment]
    training.run.start("", assemble(bench.load()).task)
    loop.train(training)
    assert training.state.step == 12
    assert watch.seen > 0
    trained = sum(int(t.parameter.count_nonzero()) for t in watch.update.tensors)
    assert 0.9 * 416 < trained <= 416  # a few kept entries of B may lie in ranks whose A is pruned


def test_the_adapter_on_disk_has_no_more_than_the_share(bench: Bench):
    run = bench.train("adapter.method=sparse_adapter", "adapter.rank=8", "training.weight_decay=0.3").run_dir
    for folder in ("adapter", "best"):
        tensors = load_file(run / folder / "adapter_model.safetensors")
        factors = [tensor for name, tensor in tensors.items() if "lora_" in name]
        assert sum(tensor.numel() for tensor in factors) == 2 * 2 * 8 * 64
        assert 0 < sum(int(tensor.count_nonzero()) for tensor in factors) <= 2 * 2 * 8 * 64 // 4


def test_snip_by_hand(bench: Bench, tmp_path: Path):
    """|p * dL/dp| at B as it was drawn, summed gradients of the batches that it drew; A and B in one ranking."""
    training, update = masked(bench, tmp_path, "keep: 0.3, batches: 2", "training.lr=0.01")
    stream = torch.Generator().set_state(update.context.generator.get_state())
    masks = update.choose()

    adapted = training.adapted
    sites = list(adapted.adapters)
    small = {name: 0.02 * torch.randn(adapted.adapters[name].delta.B.shape, generator=stream) for name in sites}
    batches = training.loader.sample(2, stream)
    with torch.no_grad():
        for name in sites:
            assert not adapted.adapters[name].delta.B.any()  # put back
            adapted.adapters[name].delta.B.copy_(small[name])
    factors = [factor for name in sites for factor in (adapted.adapters[name].delta.A, adapted.adapters[name].delta.B)]
    total = 0.0
    for batch in batches:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        total = total + F.cross_entropy(adapted.model(**inputs).logits, batch["labels"])
    gradients = torch.autograd.grad(total, factors)
    scores = torch.cat([(p * g).abs().flatten() for p, g in zip(factors, gradients, strict=True)])
    threshold = scores.sort(descending=True).values[round(0.3 * ENTRIES) - 1]
    expected = (scores >= threshold).split([factor.numel() for factor in factors])
    found = [masks[f"{name}.{factor}"].flatten() for name in sites for factor in "AB"]
    differing = sum(int((e != f).sum()) for e, f in zip(expected, found, strict=True))
    assert differing <= 2  # a pair at the threshold may change places by rounding
    kept_in = [int(piece.sum()) for piece in found]
    assert min(sum(kept_in[::2]), sum(kept_in[1::2])) > 0  # neither A nor B is pruned whole


def test_magnitude_keeps_the_largest_of_a(bench: Bench, tmp_path: Path):
    """B is scored at a random small value; among the entries of A the kept ones are the largest."""
    _, update = masked(bench, tmp_path, "keep: 0.3, score: magnitude")
    masks = update.choose()
    rows = [(t.parameter.detach().abs(), masks[t.name]) for t in update.tensors if t.role == "A"]
    kept = torch.cat([values[mask] for values, mask in rows])
    pruned = torch.cat([values[~mask] for values, mask in rows])
    assert kept.min() >= pruned.max()
    assert len(kept) > 0
    assert sum(int(masks[t.name].sum()) for t in update.tensors if t.role == "B") > 0


def test_choosing_leaves_no_trace(bench: Bench, tmp_path: Path):
    """The model, torch's stream and pending gradients are as before; a gate that starts at zero is put back too."""
    training, update = masked(bench, tmp_path, "score: snip", "adapter.method=trilora")
    before = {name: tensor.clone() for name, tensor in training.adapted.tensors().items()}
    random = torch.get_rng_state()
    masks = update.choose()
    assert_close(dict(training.adapted.tensors()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in training.parameters)
    assert {t.role for t in update.tensors} == {"A", "B"}  # the gate is not pruned
    assert all(sum(int(masks[t.name].sum()) for t in update.tensors if t.role == role) > 0 for role in "AB")


def test_masks_are_chosen_once_and_kept_in_checkpoints(bench: Bench, tmp_path: Path):
    run = bench.train(*MASKED, "run.checkpoint_every=0.5", "run.keep_checkpoints=9", run_dir=tmp_path / "run").run_dir
    states = [
        read_json(path / "state.json")["hooks"]["sparse_mask"] for path in sorted((run / "checkpoints").iterdir())
    ]
    assert len(states) == 4
    assert all(state == states[0] for state in states)
    assert sum(int(unpack(mask).sum()) for mask in states[0]["masks"].values()) == ENTRIES // 4
