"""Search methods by units down the whole line: the budget, a run that can be read back, evaluated and merged, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from workflow.small_runs import Bench, StopAt, records

from lorakit import workflow
from lorakit.artifacts.files import read_jsonl
from lorakit.errors import Interrupted

LINEAR = ("adapter.targets=[q,v,up]", "training.lr=0.02", "search.batches=2", "search.every=0.5")
SHORTCUTS = (*LINEAR, "adapter.shortcuts=[res1,mid]")
SEARCHES = {
    "alora": (*SHORTCUTS, "search.uniform_rank=2"),
    "autolora": (*SHORTCUTS, "adapter.method=autolora", "search.options={lr: 0.05}", "search.enable=0.5"),
    "prilora": (*SHORTCUTS, "search.uniform_rank=2"),
    "lora_drop": (*SHORTCUTS, "search.options={restart: all}"),
    "eva": (*LINEAR, "adapter.init=eva", "search.uniform_rank=2"),
}


@pytest.mark.parametrize("method", SEARCHES)
def test_a_run_evaluates_merges_and_resumes(bench: Bench, tmp_path: Path, method: str) -> None:
    settings = (*SEARCHES[method], f"search.method={method}")
    run = bench.train(*settings, name=f"whole-{method}")
    ticks = read_jsonl(run.run_dir / "timeline.jsonl")
    assert all(tick["parameters"] <= tick["budget"] for tick in ticks)
    assert 0 < run.adapter_parameters <= run.budget == ticks[-1]["budget"]
    for weights in ("last", "best"):
        scores = workflow.evaluate("custom", run=run.run_dir, weights=weights).scores
        assert scores == pytest.approx(getattr(run, weights), abs=1e-9)
    assert workflow.merge(run.run_dir).largest_difference < 1e-4
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        bench.train(*settings, name=f"whole-{method}", hooks=[StopAt(5)], run_dir=stopped)
    bench.train(*settings, name=f"whole-{method}", run_dir=stopped, resume=True)
    assert records(stopped) == records(run.run_dir)
