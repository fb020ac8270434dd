"""Where the real data and models are, and what many tests share: tiny models and runs of about a second, each made once.

What is heavy is imported by the fixture that needs it, so that one test without models is collected and run in a moment.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

if TYPE_CHECKING:
    from support.models import TinyModels
    from support.runs import Bench

    from lorakit.backbone.load import Backbone

ROOT = Path(__file__).parents[1]

pytest.register_assert_rewrite("support")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is imported: on models this small, threads only wait for each other, and a worker for the other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes that tests start import this copy of lorakit, whichever one is installed and wherever they run.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} does not name a folder")
    return Path(value).resolve()


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """Typer reads the signatures of all commands again at each call of one, which takes ten times as long as most of them do."""
    import typer.main

    with mock.patch.object(typer.main, "get_command", functools.cache(typer.main.get_command)):
        yield


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Real GLUE, a parquet folder a task."""
    return folder_from("LORAKIT_GLUE_DIR")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Real pretrained checkpoints, a folder each."""
    return folder_from("LORAKIT_MODELS_DIR")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """``tiny(family)``: the folder of a family's tiny checkpoint. Not to be written into."""
    from support.models import TinyModels

    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def fresh(tiny: TinyModels) -> Callable[..., Backbone]:
    """``fresh(family)``: at every call a copy of the same tiny classifier over (no, yes, both), without its tokenizer.

    With ``shared=True`` it is the original, to be read only.
    """
    from lorakit.backbone.load import load_backbone
    from lorakit.recipe.schema import ModelSection

    loaded: dict[tuple[str, str, int], Backbone] = {}

    def load(family: str, dtype: str = "float32", layers: int = 2, shared: bool = False) -> Backbone:
        if (family, dtype, layers) not in loaded:
            section = ModelSection(name=str(tiny(family, num_hidden_layers=layers)), dtype=dtype)
            loaded[family, dtype, layers] = load_backbone(
                section, labels=("no", "yes", "both"), regression=False, seed=0, offline=True
            )
        backbone = loaded[family, dtype, layers]
        return backbone if shared else copy.deepcopy(dataclasses.replace(backbone, tokenizer=None))  # slow to copy

    return load


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny: TinyModels) -> Bench:
    """Makes recipes for tiny models, and runs them."""
    from support.runs import Bench

    return Bench(tmp_path_factory.mktemp("bench"), tiny)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Imports and tests are to stay: looking for garbage among them, over and over, takes a third of the time to collect them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Neighbours share trainings, so with ``-n`` alone, too, a worker takes tests in a row, as with ``--dist worksteal``."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
