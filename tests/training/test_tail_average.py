"""The weights a run ends with are the mean of snapshots: of products by the best product of their rank, of all else number by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.adapters.adapted_models import trained
from support.processes import lorakit_on_two
from support.runs import SEARCH, Bench, StopAt, records, settings_of, trained_alone
from support.thinned import thinned
from torch.testing import assert_close

import lorakit
from lorakit.adapters.init import inits
from lorakit.adapters.method import resolve
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, RecipeError
from lorakit.recipe.schema import AdapterSection
from lorakit.reporting.tables import averaged_words
from lorakit.training.checkpoint import intact
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loop import train as run_loop
from lorakit.training.schedule import Schedule
from lorakit.training.tail_average import TailAverage, snapshot_steps
from lorakit.training.training import Training
from lorakit.workflow.records import read_run

# 12 steps, of which 7 to 12 are the tail; evaluations after 4, 8 and 12
TAIL = ("training.average=0.5", "training.schedule=constant", "training.warmup=0", "evaluation.every_steps=4")
DRAWN = [
    name
    for name in trained_alone()
    if inits.get(resolve(AdapterSection(method=name)).init).needs in ("nothing", "weight")
]
EARLY = ("training.early_stopping={patience: 2}", "evaluation.every_steps=3", "training.lr=1e-12")


class Watcher(Hook):
    """Keeps a copy of all weights after every step, as they are trained, and of those that every evaluation saw."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}
        self.evaluated: dict[int, dict[str, torch.Tensor]] = {}
        self.training: Training

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.training.adapted.tensors().items()}

    def after_step(self, state: TrainState) -> None:
        self.after[state.step] = self.copy()

    def before_evaluation(self, state: TrainState) -> None:
        self.evaluated[state.step] = self.copy()


def watched(bench: Bench, folder: Path, *overrides: str, **options: Any) -> Watcher:
    watcher = Watcher()
    watcher.training = bench.prepare(folder, *overrides, hooks=[watcher], **options)
    run_loop(watcher.training)
    return watcher


def products(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Site -> B A, in float64."""
    sites = [name[:-2] for name in weights if name.endswith(".A")]
    return {site: weights[f"{site}.B"].double() @ weights[f"{site}.A"].double() for site in sites}


def mean_of(
    after: dict[int, dict[str, torch.Tensor]], steps: range
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Of these steps the mean of every tensor, and of every product."""
    plain = {name: torch.stack([after[s][name] for s in steps]).double().mean(dim=0) for name in after[steps[0]]}
    by_step = [products(after[step]) for step in steps]
    return plain, {site: torch.stack([p[site] for p in by_step]).mean(dim=0) for site in by_step[0]}


def nearest(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of a rank (Eckart and Young), by numpy's own decomposition of the whole."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.fixture(scope="module")
def plain(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Watcher:
    return watched(bench, tmp_path_factory.mktemp("plain"), *TAIL)


def test_it_is_the_best_product_of_the_mean_of_products(plain: Watcher):
    means, mean_products = mean_of(plain.after, range(7, 13))
    lost = whole = 0.0
    for site, product in products(plain.evaluated[12]).items():
        best = nearest(mean_products[site], 4)
        assert_close(product, best, rtol=1e-4, atol=1e-7)
        assert (product - means[f"{site}.B"] @ means[f"{site}.A"]).norm() > 1e-3 * product.norm()  # not that of factors
        lost += float((mean_products[site] - best).square().sum())
        whole += float(mean_products[site].square().sum())
    head = {name for name in plain.evaluated[12] if not name.endswith((".A", ".B"))}
    assert head
    for name in head:
        assert_close(plain.evaluated[12][name].double(), means[name], rtol=1e-5, atol=1e-7)
    told = next(hook.told for hook in plain.training.hooks if isinstance(hook, TailAverage))
    assert told == {"first": 7, "last": 12, "snapshots": 6, "cut": pytest.approx(lost / whole, rel=1e-3)}
    assert lost > 0


def test_the_two_factors_share_the_singular_values(plain: Watcher):
    last = plain.training.adapted.tensors()
    for site in products(last):
        b, a = last[f"{site}.B"], last[f"{site}.A"]
        assert_close(b.T @ b, a @ a.T, rtol=1e-4, atol=1e-6)
        assert_close(b.T @ b, torch.diag((b.T @ b).diagonal()), rtol=1e-4, atol=1e-6)


def test_evaluations_in_the_tail_see_the_mean_so_far_and_the_training_goes_on_without_it(
    bench: Bench, plain: Watcher, tmp_path: Path
):
    without = watched(bench, tmp_path, *TAIL[1:])
    for step in range(1, 12):
        assert all(torch.equal(t, without.after[step][name]) for name, t in plain.after[step].items()), step
    assert all(torch.equal(t, plain.after[4][name]) for name, t in plain.evaluated[4].items())
    so_far = mean_of(plain.after, range(7, 9))[1]
    for site, product in products(plain.evaluated[8]).items():
        assert_close(product, nearest(so_far[site], 4), rtol=1e-4, atol=1e-7)


def test_factors_may_be_averaged_by_themselves(bench: Bench, tmp_path: Path):
    watcher = watched(bench, tmp_path, *TAIL, "training.average_of=factors")
    means, _ = mean_of(watcher.after, range(7, 13))
    for name, tensor in watcher.training.adapted.tensors().items():
        assert_close(tensor.double(), means[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        ("adapter.method=pissa", "adapter.dropout=0"),
        ("adapter.method=dora",),
        ("adapter.delta=core",),
        ("adapter.method=trilora",),
    ],
    ids=["pissa", "dora", "core", "diagonal"],
)
def test_whatever_is_a_product_is_averaged_as_one(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    """The mean of b a of each step, cut; magnitudes are averaged as they are, and the start that is subtracted stays."""
    watcher = Watcher()
    watcher.training = bench.prepare(tmp_path, *TAIL, *settings, hooks=[watcher])
    adapted, seen = watcher.training.adapted, []

    class Products(Hook):
        def after_step(self, state: TrainState) -> None:
            if state.step >= 7:
                seen.append({name: dense(a).double() for name, a in adapted.adapters.items()})

    def dense(adapter: Any) -> torch.Tensor:
        found: torch.Tensor = getattr(adapter.delta, "live", adapter.delta).dense().detach().clone()
        return found

    watcher.training.hooks = [*watcher.training.hooks, Products()]
    run_loop(watcher.training)
    for name, adapter in adapted.adapters.items():
        best = nearest(torch.stack([step[name] for step in seen]).mean(dim=0), 4)
        assert_close(dense(adapter).double(), best, rtol=1e-4, atol=1e-6)
    for name, tensor in adapted.tensors().items():
        if name.endswith("magnitude"):
            steps = torch.stack([watcher.after[step][name] for step in range(7, 13)])
            assert_close(tensor, steps.mean(dim=0), rtol=1e-5, atol=1e-7)
            assert not torch.equal(tensor, watcher.after[12][name])
        if ".start." in name:
            assert torch.equal(tensor, watcher.after[1][name])


@pytest.mark.parametrize(
    "settings", [("adapter.method=lora_fa",), ("adapter.method=lora_xs",), ("adapter.method=ia3", "adapter.dropout=0")]
)
def test_where_the_update_is_linear_in_what_trains_the_mean_of_tensors_is_exact(
    bench: Bench, tmp_path: Path, settings: tuple[str, ...]
):
    """And what is frozen stays as it was."""
    watcher = watched(bench, tmp_path, *TAIL, *settings)
    means, _ = mean_of(watcher.after, range(7, 13))
    trained = {tensor.name for tensor in watcher.training.adapted.trained()}
    for name, tensor in watcher.training.adapted.tensors().items():
        if name in trained:
            assert_close(tensor.double(), means[name], rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(tensor, watcher.after[1][name])


def test_closed_rank_units_stay_closed(bench: Bench, tmp_path: Path):
    """The mean has the ranks that the search left, in their places; the budget holds."""
    units = (
        "search.method=adalora",
        "adapter.method=adalora",
        "search.enable=0.5",
        "search.every=0.5",
        "search.tail=0.5",
    )
    result = bench.train(*TAIL, *units, run_dir=tmp_path / "run")
    assert result.averaged["snapshots"] == 6
    assert result.adapter_parameters <= result.budget
    again = lorakit.evaluate(result.run_dir, task="custom")
    assert again.scores[result.metric] == pytest.approx(result.last[result.metric])


def test_the_mean_begins_anew_where_the_search_changes_what_is_on(bench: Bench, tmp_path: Path):
    """HeteroLoRA ticks before steps 0, 3, 6 and 9: the mean is of what was on from the last tick that changed something."""
    settings = (*SEARCH, "search.every=0.5", "search.enable=0.4", "search.proxy=constant")
    result = bench.train(*TAIL, *settings, run_dir=tmp_path / "run")
    ticks = {tick["step"]: set(tick["on"]) for tick in read_jsonl(result.run_dir / "timeline.jsonl")}
    assert ticks[9] != ticks[6]
    assert (result.averaged["first"], result.averaged["snapshots"]) == (10, 3)


@pytest.mark.parametrize(
    ("step", "settings"),
    thinned([(8, ("adapter.method=dora",)), (11, (*SEARCH, "search.every=0.5", "search.enable=0.4"))], 2),
    ids=["at an evaluation", "after a tick"],
)
def test_resumed_in_the_tail_it_ends_the_same(bench: Bench, tmp_path: Path, step: int, settings: tuple[str, ...]):
    whole = bench.train(*TAIL, *settings, run_dir=tmp_path / "whole")
    with pytest.raises(Interrupted):
        bench.train(*TAIL, *settings, run_dir=tmp_path / "run", hooks=[StopAt(step)])
    snapshots = tmp_path / "run" / "checkpoints" / f"step-{step}" / "hooks.safetensors"
    content = snapshots.read_bytes()
    for written in (content[:-1], content):
        snapshots.write_bytes(written)
        assert intact(snapshots.parent) == (written == content)
    torch.manual_seed(99)
    bench.train(*TAIL, *settings, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(whole.run_dir)


def test_the_run_is_of_the_mean(bench: Bench, tmp_path: Path):
    """Its adapter, its last evaluation, its last checkpoint, from which nothing is averaged twice, and its words."""
    result = bench.train(*TAIL, run_dir=tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-12"
    assert not (checkpoint / "hooks.safetensors").exists()
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    held = load_file(checkpoint / "model.safetensors")
    assert_close(
        next(t for n, t in saved.items() if "lora_B" in n), next(t for n, t in held.items() if n.endswith(".B"))
    )
    again = lorakit.evaluate(result.run_dir, task="custom")
    assert again.scores[result.metric] == result.last[result.metric]
    (tmp_path / "run" / "summary.json").unlink()
    resumed = bench.train(*TAIL, run_dir=tmp_path / "run", resume=True)
    assert (resumed.averaged, resumed.last) == (result.averaged, result.last)
    assert load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors").keys() == saved.keys()
    words = read_run(Run(tmp_path / "run")).outcome.averaged
    assert words.startswith("the last weights are the mean of 6 snapshots, of steps 7 to 12; the ranks lost ")


def test_early_stopping_watches_the_mean_and_ends_with_it(bench: Bench, tmp_path: Path):
    """The score never moves: after 3, 6 and 9 steps, the last of them in the tail, or before it."""
    inside = bench.train(*TAIL, *EARLY, run_dir=tmp_path / "inside")
    assert (inside.steps, inside.averaged["first"], inside.averaged["last"]) == (9, 7, 9)
    before = bench.train(*TAIL, *EARLY, "training.average=0.1", run_dir=tmp_path / "before")
    assert (before.steps, before.averaged) == (9, {"snapshots": 0})
    assert "are no mean" in averaged_words(before.averaged)


@pytest.mark.parametrize("name", thinned(DRAWN, 5))
def test_whatever_an_adapter_is_made_of_two_equal_snapshots_are_their_own_mean(bench: Bench, name: str):
    """The function is the same, to rounding, of which a product has a little more."""
    overrides = [f"adapter.method={name}", "training.average=0.5", "adapter.dropout=0", "adapter.updates=[]"]
    adapted = trained(bench, *overrides, *settings_of(name))
    average = TailAverage(adapted, bench.load(*overrides).recipe, Schedule(48, 6, 12, 0, [], [], []))
    adapted.model.eval()
    inputs = {"input_ids": torch.arange(4, 12).view(2, 4), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    before = adapted.model(**inputs).logits
    for step in (11, 12):
        average.after_step(TrainState(12, 6, step=step))
    held = {key: tensor.clone() for key, tensor in adapted.tensors().items()}
    average.before_evaluation(TrainState(12, 6, step=12))
    assert_close(adapted.model(**inputs).logits, before, rtol=1e-3, atol=1e-3)
    average.on_evaluation(TrainState(24, 6, step=12))
    assert all(torch.equal(tensor, held[key]) for key, tensor in adapted.tensors().items())


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["adapter.updates=[rose]"], "update 'rose'"),
        (["adapter.updates=[sparse_mask,drop_bp]"], "update 'sparse_mask'"),
        (["adapter.method=sora", "search.method=sora"], "search 'sora'"),
    ],
)
def test_what_a_mean_would_undo_is_refused(bench: Bench, tmp_path: Path, overrides: list[str], what: str):
    with pytest.raises(RecipeError, match=what) as caught:
        bench.train(*TAIL, *overrides, run_dir=tmp_path / "run")
    (problem,) = caught.value.problems
    assert problem.key == "training.average"
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match=what):
        lorakit.plan(bench.load(*TAIL, *overrides))


def test_snapshots_are_evenly_spaced_and_fewer_at_high_ranks():
    assert snapshot_steps(0.4, 100, 8) == [60 + -(-40 * (place + 1) // 16) for place in range(16)]
    assert snapshot_steps(0.4, 10, 8) == [7, 8, 9, 10]
    assert len(snapshot_steps(0.4, 1000, 32)) == 8
    assert len(snapshot_steps(0.4, 1000, 768)) == 4
    assert snapshot_steps(0.4, 1000, 768)[-1] == 1000


def test_the_plan_tells_it(bench: Bench):
    notes = lorakit.plan(bench.load(*TAIL, *SEARCH, "search.every=0.5")).notes
    assert "the last weights will be the mean of 6 snapshots, of steps 7 to 12" in notes
    assert "that mean begins anew where the search's ticks, up to step 9, change what is on" in notes


@pytest.mark.slow
def test_two_processes_average_alike(bench: Bench, tmp_path: Path):
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = (*TAIL, "adapter.dropout=0", "training.lr=1e-3", "training.batch_size=6", f"model.name={backbone}")
    alone = bench.train(*settings)
    lorakit_on_two("train", str(bench.load().path), *settings, "--run-dir", str(tmp_path / "run"))
    summaries = [read_json(run / "summary.json")["averaged"] for run in (alone.run_dir, tmp_path / "run")]
    assert summaries[1] == pytest.approx(summaries[0], rel=1e-2)
    ours, theirs = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (alone.run_dir, tmp_path / "run")
    )
    for name, b in ours.items():
        if "lora_B" in name:
            a = name.replace("lora_B", "lora_A")
            assert_close(theirs[name] @ theirs[a], b @ ours[a], rtol=1e-3, atol=1e-6)
