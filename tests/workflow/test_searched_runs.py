"""Allocators down the whole line: the budget, a run that can be read back, evaluated and merged, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.processes import launch
from support.runs import Bench, StopAt, records
from support.thinned import thinned
from torch.testing import assert_close

import lorakit
from lorakit.artifacts.files import read_jsonl
from lorakit.errors import Interrupted, RecipeError
from lorakit.recipe.load import load_recipe

LINEAR = ("adapter.targets=[q,v,up]", "training.lr=0.02", "search.batches=2", "search.every=0.5")
SHORTCUTS = (*LINEAR, "adapter.shortcuts=[res1,mid]")
SEARCHES = {
    "heterolora": (
        *SHORTCUTS,
        "search.scoring=streaming",
        "search.enable=0.4",
        "search.options={per: role, smooth: 0.5}",
    ),
    "gradsvd": (*LINEAR, "search.uniform_rank=2", "search.options={scale: own, start: svd}"),
    "alora": (*SHORTCUTS, "search.uniform_rank=2"),
    "autolora": (*SHORTCUTS, "adapter.method=autolora", "search.options={lr: 0.05}", "search.enable=0.5"),
    "prilora": (*SHORTCUTS, "search.uniform_rank=2"),
    "lora_drop": (*SHORTCUTS, "search.options={restart: all}"),
    "eva": (*LINEAR, "adapter.init=eva", "search.uniform_rank=2"),
}


@pytest.mark.parametrize("method", thinned(SEARCHES, 3))
def test_a_run_evaluates_merges_and_resumes(bench: Bench, tmp_path: Path, method: str) -> None:
    settings = (*SEARCHES[method], f"search.method={method}")
    run = bench.train(*settings, name=f"whole-{method}")
    ticks = read_jsonl(run.run_dir / "timeline.jsonl")
    assert all(tick["parameters"] <= tick["budget"] for tick in ticks)
    assert 0 < run.adapter_parameters <= run.budget == ticks[-1]["budget"]
    for weights in ("last", "best"):
        scores = lorakit.evaluate(run.run_dir, task="custom", weights=weights).scores
        assert scores == pytest.approx(getattr(run, weights), abs=1e-9)
    assert lorakit.merge(run.run_dir).largest_difference < 1e-4
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        bench.train(*settings, name=f"whole-{method}", hooks=[StopAt(5)], run_dir=stopped)
    bench.train(*settings, name=f"whole-{method}", run_dir=stopped, resume=True)
    assert records(stopped) == records(run.run_dir)


@pytest.mark.parametrize("method", ["dylora", "alora", "autolora", "prilora", "lora_drop"])
def test_what_needs_a_training_is_no_search_before_one(bench: Bench, method: str) -> None:
    with pytest.raises(RecipeError, match="decides during a training"):
        lorakit.search(bench.load(f"search.method={method}"))


def test_ranks_of_eva_are_found_before_a_training_too(bench: Bench, tmp_path: Path) -> None:
    """The emitted recipe has the ranks that a training with this search would have."""
    settings = (*SEARCHES["eva"], "search.method=eva", "training.max_steps=1")
    found = lorakit.search(bench.load(*settings), emit=tmp_path / "found.yaml")
    (tick,) = read_jsonl(bench.train(*settings, name="eva-ranks").run_dir / "timeline.jsonl")
    allocation = load_recipe(tmp_path / "found.yaml").recipe.adapter.allocation
    assert allocation == {name: rank for name, rank in tick["ranks"].items() if rank}
    assert found.used == tick["parameters"] <= found.budget


TOGETHER = (*SEARCHES, "dylora")


@pytest.fixture(scope="module")
def pairs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Method -> its run in one process and in two, of one launch: to start two processes takes longer than to train."""
    folder, recipe, jobs, runs = tmp_path_factory.mktemp("pairs"), str(bench.load().path), [], {}
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for method in TOGETHER:
        settings = (
            *(*SEARCHES.get(method, SHORTCUTS), f"search.method={method}", "adapter.dropout=0", "training.lr=1e-3"),
            *("training.batch_size=6", f"model.name={backbone}"),
        )
        jobs.append({"recipe": recipe, "overrides": settings, "run": str(folder / method), "stops": []})
        runs[method] = bench.train(*settings).run_dir, folder / method
    assert not launch(folder, jobs)
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("method", TOGETHER)
def test_two_processes_decide_alike(pairs: dict[str, tuple[Path, Path]], method: str) -> None:
    """The same global batch on two processes: the same ranks, units, shares and zeros, so the same weights to rounding."""
    alone, two = pairs[method]
    ours, theirs = (read_jsonl(run / "timeline.jsonl") for run in pairs[method])
    assert [tick["ranks"] for tick in ours] == [tick["ranks"] for tick in theirs]
    for file in (alone / "adapter").glob("*.safetensors"):
        other = load_file(two / "adapter" / file.name)
        for name, tensor in load_file(file).items():
            assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)
