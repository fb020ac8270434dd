"""Restarts against merging by hand, step by step; the rate's course, the moments, the layers; what is saved, cut and refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench
from torch.testing import assert_close

import lorakit
from lorakit.adapters.deltas.chain import Chain
from lorakit.errors import RecipeError
from lorakit.training import loop
from lorakit.training.optim import moments_of
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import assemble

BOTH = ("adapter.targets=[q,up]", "adapter.alpha=16", "adapter.dropout=0", "training.weight_decay=0.1")
OURS = ("adapter.method=relora", *BOTH)  # 12 steps, 4 links of 3
SCALE = 4.0


def told(**options: Any) -> str:
    return f"adapter.update_options={{{', '.join(f'{name}: {value}' for name, value in options.items())}}}"


def run_steps(training: Any, number: int) -> None:
    for _ in range(2):
        for step_batch in training.loader.step_batches(0):
            if training.state.step < number:
                loop.step(training, step_batch)


def pruned_by_hand(state: dict[str, torch.Tensor], share: float) -> None:
    """Nothing stays but where the first moment is above the quantile; steps are counted anew."""
    first = state["exp_avg"].abs()
    entries = np.sort(first.flatten().numpy())
    bound = entries[len(entries) - round((1 - share) * len(entries))]
    for name in ("exp_avg", "exp_avg_sq"):
        state[name][first < bound] = 0
    state["step"].fill_(0)


@pytest.mark.parametrize("reset", ["new", "magnitude", "keep"])
def test_it_is_merging_and_starting_anew_step_by_step(bench: Bench, tmp_path: Path, reset: str):
    """Beside a LoRA that is merged by hand at the end of each link, and goes on from the same new A."""
    ours = bench.prepare(
        tmp_path / "ours", *OURS, told(reset=reset, pruned=0.9, rate="steady", every=2), "adapter.options={links: 6}"
    )
    plain = bench.prepare(tmp_path / "plain", *BOTH)
    for training in (ours, plain):
        training.adapted.model.double()
    adapters = plain.adapted.adapters
    before = {name: adapter.base.weight.clone() for name, adapter in adapters.items()}
    restarts = 0
    for step_batch in plain.loader.step_batches(0):
        loop.step(plain, step_batch)
        loop.step(ours, step_batch)
        deltas = {name: ours.adapted.adapters[name].delta for name in adapters}
        if ours.state.step in (2, 4, 6):
            restarts += 1
            for name, adapter in adapters.items():
                adapter.base.weight.data += SCALE * (adapter.delta.B @ adapter.delta.A).detach()
                assert not torch.equal(adapter.delta.A, deltas[name].A)
                adapter.delta.A.data.copy_(deltas[name].A)
                adapter.delta.B.data.zero_()
                for tensor in (adapter.delta.A, adapter.delta.B):
                    if reset == "magnitude":
                        pruned_by_hand(plain.optimizer.state[tensor], 0.9)
            if reset == "new":
                plain.optimizer.state.clear()
        values = ours.adapted.tensors()
        for name, tensor in plain.adapted.tensors().items():
            assert_close(values[name], tensor, rtol=1e-6, atol=1e-9)
        for name, adapter in adapters.items():
            twin = ours.adapted.adapters[name]
            assert torch.equal(twin.base.weight, before[name])
            assert_close(twin.effective_weight(before[name]), adapter.effective_weight(adapter.base.weight))
    assert restarts == 3


def test_moments_go_at_random_and_the_others_stay(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path, *OURS, told(reset="random", pruned=0.75, rate="steady"))
    (restart,) = training.hooks
    run_steps(training, 2)
    factors = [t.parameter for t in training.adapted.trained() if t.role in ("A", "B")]
    before = [moment.clone() for tensor in factors for moment in moments_of(training.optimizer, tensor)]
    restart.restart(1)
    after = [moment for tensor in factors for moment in moments_of(training.optimizer, tensor)]
    kept = [(new != 0)[old != 0] for old, new in zip(before, after, strict=True)]
    assert all(((new == old) | (new == 0)).all() for old, new in zip(before, after, strict=True))
    share = sum(int(stays.sum()) for stays in kept) / sum(stays.numel() for stays in kept)
    assert share == pytest.approx(0.25, abs=0.03)


def rates(bench: Bench, folder: Path, *settings: str) -> list[float]:
    """The rate of each step, over the full one."""
    training = bench.prepare(folder, *OURS, "training.warmup=0.25", "training.schedule=linear", *settings)
    found = []
    for _ in range(12):
        found.append(training.optimizer.param_groups[0]["lr"] / 5e-3)
        training.optimizer.step()
        training.scheduler.step()
    return found


def test_the_rate_is_warmed_up_again(bench: Bench, tmp_path: Path):
    """Linear: 3 steps up, 9 down to 0; after the restart before step 6, two steps up to what it is at step 8."""
    plain = [0, 1 / 3, 2 / 3, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]
    links = "adapter.options={links: 2}"
    assert rates(bench, tmp_path / "on", links, told(rate="steady")) == pytest.approx(plain)
    again = [*plain[:6], 0, 2 / 9, *plain[8:]]
    assert rates(bench, tmp_path / "rewarm", links, told(rate="rewarm", rewarm=2)) == pytest.approx(again)
    assert rates(bench, tmp_path / "share", links, told(rate="rewarm", rewarm=0.3)) == pytest.approx(again)
    link = [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]  # of 6 steps a quarter, rounded up, is 2
    assert rates(bench, tmp_path / "anew", links, told(rate="anew")) == pytest.approx([*link, *link])


def test_each_link_trains_its_own_layers(bench: Bench, tmp_path: Path):
    """One of the two: the other one's tensors stay, and so do their finished products."""
    training = bench.prepare(tmp_path, *OURS, told(layers=0.5, reset="new"))
    seen = []
    for step in (3, 6, 9, 12):
        on = {training.adapted.adapters[name].site.layer for name in training.adapted.on}
        before = {name: t.clone() for name, t in training.adapted.tensors().items()}
        assert len(on) == 1
        run_steps(training, step - 1)
        moved = {name for name, t in training.adapted.tensors().items() if not torch.equal(t, before[name])}
        layers = {a.site.layer for name, a in training.adapted.adapters.items() if f"{name}.B" in moved}
        assert layers == on
        run_steps(training, step)
        seen.append(on.pop())
    assert set(seen) == {0, 1}
    for adapter in training.adapted.adapters.values():
        delta = adapter.delta
        assert isinstance(delta, Chain)
        finished = [bool(product.any()) for product in delta.B_past.split(4, dim=1)]
        assert finished == [layer == adapter.site.layer for layer in seen[:3]]


@pytest.mark.slow
def test_saved_merged_exported_and_cut(bench: Bench, caplog: pytest.LogCaptureFixture):
    """PEFT has it as one LoRA; at a lower rank it is the dense update's best approximation (Eckart & Young), and the error is told."""
    run = bench.train(*OURS, "training.lr=0.02").run_dir
    saved = load_file(run / "adapter" / "lorakit_model.safetensors")
    assert all(t.any() for name, t in saved.items() if "_past" in name)
    assert lorakit.merge(run).largest_difference < 1e-4
    exported = lorakit.export(run)
    assert exported.ranks == (16, 16)
    assert exported.largest_difference < 1e-4
    whole = restore_run(run, None).adapted.adapters
    for rank in (2, 6):
        with caplog.at_level(logging.INFO, logger="lorakit"):
            cut = restore_run(run, None, rank=rank).adapted.adapters
        lost = norm = 0.0
        for name, adapter in cut.items():
            u, s, v = np.linalg.svd(whole[name].delta.dense().detach().double().numpy())
            best = (u[:, :rank] * s[:rank]) @ v[:rank]
            assert_close(adapter.delta.dense().detach().double().numpy(), best, rtol=1e-4, atol=1e-6)
            lost, norm = lost + (s[rank:] ** 2).sum(), norm + (s**2).sum()
        assert f"rank {rank} leaves out {100 * (lost / norm) ** 0.5:.2f}% of the updates' norm" in caplog.text
    assert lorakit.export(run, rank=6, force=True).ranks == (6, 6)
    points = lorakit.rank_curve(run, "2,6,16").points
    sizes = [a.site.in_features + a.site.out_features for a in whole.values()]
    assert [point.parameters for point in points] == [rank * sum(sizes) for rank in (16, 6, 2)]


def test_a_quantised_weight_will_do(bench: Bench):
    run = bench.train(*OURS, "model.quantization=int4", "model.quantization_group=16", name="quantised").run_dir
    assert lorakit.merge(run).largest_difference < 1e-4


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (("search.method=heterolora",), "decides itself what trains"),
        (("adapter.method=lora", "adapter.updates=[restart]"), "keeps what it needs in delta 'chain'"),
        (("training.average=0.5",), "a mean over steps would undo that"),
        (("adapter.start=elsewhere",), "would write over what it has kept"),
        (("adapter.init=pissa",), "gives factors B and A, which delta 'chain' cannot take"),
    ],
)
def test_refusals_when_the_recipe_is_read(bench: Bench, settings: tuple[str, ...], match: str):
    with pytest.raises(RecipeError, match=match):
        assemble(bench.load(*OURS, *settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ((told(every=2),), "12 steps are more than 4 links of 2 steps"),
        (("training.max_steps=3",), "3 steps are too few for 4 links"),
        ((told(layers=3),), "to train 3 layers in each link, and there are 2"),
    ],
)
def test_what_does_not_fit_is_refused(bench: Bench, tmp_path: Path, settings: tuple[str, ...], match: str):
    with pytest.raises(RecipeError, match=match):
        bench.prepare(tmp_path, *OURS, *settings)
