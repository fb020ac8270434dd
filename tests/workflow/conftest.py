"""A bench for small runs, and one run that many tests read."""

from pathlib import Path

import pytest
from workflow.small_runs import SEARCH, Bench

from lorakit import workflow


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def finished(bench: Bench) -> workflow.TrainResult:
    """A run of plain LoRA trained to its end, figures and all. Not to be written into."""
    return workflow.train(bench.load(name="finished"))


@pytest.fixture(scope="session")
def searched(bench: Bench) -> workflow.TrainResult:
    """The same of HeteroLoRA with shortcuts, some of them on at the end. Not to be written into."""
    loaded = bench.load(*SEARCH, "search.pool=separated", "search.enable=0.5", "search.every=0.5", name="searched")
    return workflow.train(loaded)


@pytest.fixture
def copied(finished: workflow.TrainResult, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be spoilt."""
    import shutil

    return Path(shutil.copytree(finished.run_dir, tmp_path / "copied"))
