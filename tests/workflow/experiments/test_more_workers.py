"""Workers that one call starts: what they are given, that they share the runs, and that they end with it."""

import io
import json
import logging
import os
import time

import pytest
import torch

from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import all_checkpoints
from lorakit.errors import UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.experiments import more_workers as module
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.more_workers import arguments, gpus, how_many, more_workers, start
from lorakit.workflow.experiments.request import Request
from lorakit.workflow.experiments.sweep import sweep
from lorakit.workflow.experiments.sweep_spec import SweepRequest
from lorakit.workflow.train import train

LONG = 300.0  # seconds that a worker may take to begin


def until(done, what: str) -> None:
    end = time.monotonic() + LONG
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_that_fails_says_why_and_ends_as_it_should(tmp_path):
    helper = start(sweep, SweepRequest(str(tmp_path / "nothing.yaml"), folder=tmp_path), tmp_path, 1, 2)
    assert helper.process.wait(LONG) == 1
    assert "nothing.yaml" in helper.log.read_text()
    assert "Fatal" not in helper.log.read_text()
    helper.stop()


@pytest.mark.slow
def test_workers_share_the_runs_of_one_call(bench, tmp_path, monkeypatch, caplog):
    path, folder = str(bench.load("training.max_steps=1", name="many").path), tmp_path / "s"
    mine = []

    def late(loaded, *, run_dir, **rest):
        """The others train, too, while this one is in its first run."""
        mine.append(run_dir.name)
        until(lambda: any(run.finished for run in map(Run, folder.glob("many-rank*"))), "no other worker came")
        train(loaded, run_dir=run_dir, **rest)

    monkeypatch.setattr(workers, "train", late)
    monkeypatch.setattr(workers, "POLL", 0.05)
    threads = torch.get_num_threads()
    result = sweep(path, ["adapter.rank=1,2"], seeds=[0, 1], folder=folder, workers=2)
    assert torch.get_num_threads() == threads
    assert (result.failed, result.missing) == ([], [])
    assert [len(point.came_to.runs) for point in result.points] == [2, 2]
    assert 1 <= len(mine) <= 3
    assert "ended with an error" not in caplog.text
    told = (folder / "worker-1.log").read_text()
    assert all(f"many-rank{rank}, seed {seed}" in told for rank in (1, 2) for seed in (0, 1)) == (len(mine) == 0)
    assert told.count(", seed ") == 4 - len(mine)


@pytest.mark.slow
def test_a_worker_stops_politely_with_the_one_that_started_it(bench, tmp_path):
    recipe = bench.load("training.epochs=10000", "run.checkpoint_every=1", name="long")
    helper = start(sweep, SweepRequest(str(recipe.path), seeds=[0], folder=tmp_path / "s"), tmp_path / "s", 1, 2)
    run = Run(tmp_path / "s" / "long-0")
    try:
        until(lambda: all_checkpoints(run.checkpoints), "it never began")
    finally:
        helper.stop()
    assert helper.process.returncode == 1
    assert "finished runs are kept" in helper.log.read_text()
    assert not run.finished


def test_every_worker_has_its_gpu_and_its_part_of_the_cores(monkeypatch, tmp_path):
    started = []

    class Popen:
        def __init__(self, words, *, env, **rest):
            started.append(env)
            self.stdin = io.BytesIO()

        def wait(self, timeout=None):
            return 0

    monkeypatch.setattr(module.subprocess, "Popen", Popen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,GPU-7")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    with more_workers(sweep, Request(workers=4), tmp_path, 9):
        assert torch.get_num_threads() == 2
        assert os.environ["RAYON_NUM_THREADS"] == "2"
    assert "RAYON_NUM_THREADS" not in os.environ
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["6", "GPU-7", "5"]
    assert {(env["OMP_NUM_THREADS"], env["RAYON_NUM_THREADS"]) for env in started} == {("2", "2")}
    started.clear()
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    with more_workers(sweep, Request(), tmp_path, 2):  # one for each GPU, and none without a run
        pass
    assert [env["RAYON_NUM_THREADS"] for env in started] == ["1"] == [os.environ["RAYON_NUM_THREADS"]]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus() == ["0", "1", "2"]


def test_an_error_of_another_worker_is_told(monkeypatch, tmp_path, caplog):
    class Popen:
        def __init__(self, words, **rest):
            self.stdin = io.BytesIO()

        def wait(self, timeout=None):
            return 1

    monkeypatch.setattr(module.subprocess, "Popen", Popen)
    with caplog.at_level(logging.WARNING), more_workers(sweep, Request(workers=2), tmp_path, 9):
        pass
    assert f"a worker ended with an error: {tmp_path / 'worker-1.log'}" in caplog.text


def test_another_worker_is_called_with_the_same(bench, tmp_path):
    """A recipe that is loaded, changed settings and all, is read again from a file."""
    loaded = load_recipe(bench.load().path, ["adapter.rank=2"])
    asked = SweepRequest(
        loaded, ["training.lr=1e-3,1e-2"], seeds=range(2), folder=tmp_path, workers=3, table=tmp_path / "t"
    )
    given = json.loads(json.dumps(arguments(asked, tmp_path)))
    recipe = load_recipe(given.pop("recipe")).recipe
    assert recipe == loaded.recipe
    same = {"metric": None, "offline": False, "trials": None, "storage": None, "holdout": None, "prune": None}
    own = {"workers": 1, "table": None, "wait": True, "on": None, "slurm": [], "seeds": [0, 1], "folder": str(tmp_path)}
    assert given == same | own | {"overrides": ["training.lr=1e-3,1e-2"]}


def test_numbers_of_workers(monkeypatch):
    assert how_many(Request()) == 1
    assert how_many(Request(workers=3)) == 3
    with pytest.raises(UsageError, match="0 is not a number of workers"):
        how_many(Request(workers=0))
    with pytest.raises(UsageError, match="--workers and --no-wait exclude each other"):
        how_many(Request(workers=2, wait=False))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert how_many(Request()) == 4
    assert how_many(Request(wait=False)) == 1
