"""What the tests of experiments share."""

from __future__ import annotations

import pytest
from support.pretended import pretend
from support.runs import Bench

from lorakit.workflow.experiments import workers


@pytest.fixture
def small(bench: Bench) -> str:
    return str(bench.load(name="small").path)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """No figures, which take more time than all else where trainings are pretended."""
    monkeypatch.setattr("lorakit.workflow.experiments.sweep.draw", lambda points, metric, path: None)
    monkeypatch.setattr("lorakit.workflow.experiments.compare.comparison_figure", lambda *what, **how: None)


@pytest.fixture
def pretending(monkeypatch) -> None:
    monkeypatch.setattr(workers, "train", pretend)
    monkeypatch.setattr(workers, "POLL", 0.02)
