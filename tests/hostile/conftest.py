"""Sound folders to spoil: runs, an unfinished run, a merged model, a PEFT adapter, a base model. And a place that nobody may touch."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import SEARCH, Bench, StopAt

import lorakit
from lorakit.errors import Interrupted


@pytest.fixture(scope="session")
def plain(bench: Bench) -> Path:
    """A finished run whose adapter is in PEFT's form."""
    return bench.train("training.epochs=1", "adapter.rank=2", "adapter.targets=[q]", name="plain").run_dir


@pytest.fixture(scope="session")
def searched(bench: Bench) -> Path:
    """A finished run of HeteroLoRA with shortcuts, which PEFT cannot express."""
    settings = ("search.pool=separated", "search.enable=0.5", "search.every=0.5", "training.epochs=1", "adapter.rank=2")
    return bench.train(*SEARCH, *settings, name="searched").run_dir


@pytest.fixture(scope="session")
def unfinished(bench: Bench) -> Path:
    """A run that was interrupted at step 3 of 6, with its checkpoint."""
    folder = bench.folder / "unfinished"
    with pytest.raises(Interrupted):
        bench.train("training.epochs=1", "adapter.rank=2", hooks=[StopAt(3)], run_dir=folder, name="unfinished")
    return folder


@pytest.fixture(scope="session")
def merged(bench: Bench, searched: Path) -> Path:
    """The searched run as a model with shortcuts beside it."""
    return lorakit.merge(searched, out=bench.folder / "merged").out


@pytest.fixture(scope="session")
def exported(bench: Bench, plain: Path) -> Path:
    """The plain run as a PEFT adapter."""
    return lorakit.export(plain, out=bench.folder / "exported").out


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that links lead to: nothing in it may change, and nothing may appear."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("untouched")
    return folder
