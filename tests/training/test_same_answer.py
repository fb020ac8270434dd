"""One recipe and seed, one answer: whatever is shown, tracked or was trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import SEARCH, Bench, records

from lorakit.cli.progress import ProgressHook

SETTINGS = (*SEARCH, "adapter.dropout=0.2", "search.scoring=streaming", "training.accumulate=2", "search.every=0.5")


@pytest.fixture(scope="module")
def answer(bench: Bench) -> dict[str, Any]:
    return records(bench.train(*SETTINGS).run_dir)


def test_with_the_progress_display(bench: Bench, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with ProgressHook(quiet=False) as progress:
        assert records(bench.train(*SETTINGS, hooks=[progress]).run_dir) == answer


def test_with_trackers(bench: Bench, answer: dict[str, Any], tmp_path: Path):
    run = bench.train(*SETTINGS, "run.trackers=[tensorboard]", run_dir=tmp_path / "run").run_dir
    assert records(run) == answer


def test_after_other_trainings_in_the_same_process(bench: Bench, answer: dict[str, Any]):
    bench.train("run.seed=5", "adapter.method=dora", kind="pair")
    torch.rand(7)
    assert records(bench.train(*SETTINGS).run_dir) == answer


def test_whatever_the_line_length_and_checkpoints(bench: Bench, answer: dict[str, Any]):
    """What is written down more often is the same training."""
    seen = records(bench.train(*SETTINGS, "run.log_every=1", "run.checkpoint_every=0.34").run_dir)
    same = ("timeline", *(name for name in answer if name.startswith(("adapter/", "best/"))))
    assert {name: seen[name] for name in same} == {name: answer[name] for name in same}
