"""Two runs that many tests read, and figures that are not drawn."""

import shutil
from pathlib import Path

import pytest
from support.runs import SEARCH, Bench

import lorakit
from lorakit.workflow.train import TrainResult


@pytest.fixture(scope="session")
def finished(bench: Bench) -> TrainResult:
    """A run of plain LoRA trained to its end, figures and all. Not to be written into."""
    return lorakit.train(bench.load(name="finished"))


@pytest.fixture(scope="session")
def searched(bench: Bench) -> TrainResult:
    """The same of HeteroLoRA with shortcuts, some of them on at the end. Not to be written into."""
    loaded = bench.load(*SEARCH, "search.pool=separated", "search.enable=0.5", "search.every=0.5", name="searched")
    return lorakit.train(loaded)


@pytest.fixture
def copied(finished: TrainResult, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be spoilt."""
    return Path(shutil.copytree(finished.run_dir, tmp_path / "copied"))


@pytest.fixture(autouse=True)
def undrawn_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test trains has no figures, which take more time than a tiny training; the two runs above have theirs."""
    monkeypatch.setattr("lorakit.workflow.train.draw", lambda run, parts: None)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's figures are put together and not written: for tests that ask which ones there are."""
    monkeypatch.setattr("lorakit.workflow.report.save", lambda figure, path: path)
    monkeypatch.setattr("lorakit.workflow.report.as_svg", lambda figure, salt: "<svg></svg>")
