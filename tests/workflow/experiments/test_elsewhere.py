"""Workers of an engine, here one that pretends: what they are called with, what is told of them, and what becomes of them."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.pretended import log, pretend

from lorakit.artifacts.files import read_json, write_json
from lorakit.errors import Interrupted, RunError, UsageError
from lorakit.workflow.experiments import elsewhere, workers
from lorakit.workflow.experiments.compare import compare, submit_compare
from lorakit.workflow.experiments.elsewhere import work
from lorakit.workflow.experiments.sweep import submit_sweep, sweep

RANKS = "adapter.rank=2,4"


@dataclass
class Job:
    """Does its work when it is asked for the first time whether it is done; ``fate`` does something else."""

    number: int
    engine: Engine
    call: Path
    ended: bool = False
    mine: bool = True

    @property
    def name(self) -> str:
        return f"worker {self.number}"

    @property
    def log(self) -> Path:
        return self.call.with_name(f"{self.number}.log")

    def done(self) -> bool:
        if not self.ended:
            self.ended = self.engine.fates.get(self.number, self.worked)()
        return self.ended

    def worked(self) -> bool:
        self.engine.at_work = True
        work(self.call, self.number)
        self.engine.at_work = False
        return True

    def cancel(self) -> None:
        self.engine.cancelled.append(self.number)
        self.ended = True


@dataclass
class Engine:
    starts: list[int] = field(default_factory=list)
    fates: dict = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    at_work: bool = False

    def check(self, asked) -> None:
        pass

    @contextmanager
    def started(self, call, asked, most):
        self.starts.append(min(asked.workers, most))
        yield [Job(number, self, call) for number in range(self.starts[-1])]


@pytest.fixture
def engine(pretending, undrawn, monkeypatch) -> Engine:
    """Its workers pretend to train; nobody else may."""
    made = Engine()

    def only_at_work(loaded, **rest) -> None:
        assert made.at_work
        pretend(loaded, **rest)

    monkeypatch.setattr(workers, "train", only_at_work)
    monkeypatch.setitem(sys.modules, "an_engine", SimpleNamespace(ENGINE=made))
    monkeypatch.setitem(elsewhere.ENGINES, "other", "an_engine")
    return made


def test_workers_do_the_call_and_the_caller_tells_what_came_out(small, engine, tmp_path):
    folder = tmp_path / "s"
    settings = {"seeds": [0, 1], "folder": folder, "holdout": 0.2, "workers": 3}
    result = sweep(small, [RANKS], **settings, on="other", table=tmp_path / "t.csv")
    assert engine.starts == [3]
    points = [f"small-rank{rank}-{seed}" for seed in (0, 1) for rank in (2, 4)]
    assert log(folder) == [*points, "small-rank4-all-rows-0", "small-rank4-all-rows-1"]
    (call,) = folder.glob("jobs/*/call.json")
    told = read_json(call)
    assert told["call"] == ["lorakit.workflow.experiments.sweep", "sweep"]
    assert (told["folder"], told["given"]["on"], told["given"]["workers"]) == (str(Path.cwd()), None, 1)
    assert (tmp_path / "t.csv").read_text().count("\n") == 7
    assert sweep(small, [RANKS], **settings, on="other").to_dict() == result.to_dict()
    assert engine.starts == [3]  # nothing was missing
    (folder / "small-rank4-all-rows-1" / "summary.json").unlink()
    assert sweep(small, [RANKS], **settings, on="other").to_dict() == result.to_dict()
    assert engine.starts == [3, 2]


@pytest.mark.slow
def test_recipes_are_compared_so(small, engine, tmp_path):
    result = compare([small], ["training.epochs=1"], seeds=[0, 1, 2], folder=tmp_path / "c", on="other", workers=9)
    assert engine.starts == [3]
    assert [run.seed for run in result.sides[0].runs] == [0, 1, 2]


@pytest.mark.slow
def test_trials_are_drawn_so(small, engine, tmp_path):
    pytest.importorskip("optuna", reason="optional")
    settings = {"seeds": [0], "folder": tmp_path / "s", "trials": 2, "on": "other", "workers": 4}
    result = sweep(small, ["training.lr=1e-5..1e-2"], **settings)
    assert engine.starts == [2]
    assert [trial.state for trial in result.trials] == ["finished"] * 2
    assert sweep(small, ["training.lr=1e-5..1e-2"], **settings).to_dict() == result.to_dict()
    assert engine.starts == [2]


def test_what_failed_and_what_is_missing_is_told(small, engine, monkeypatch, tmp_path, caplog):
    def fail(loaded, **rest) -> None:
        if loaded.recipe.adapter.rank == 4:
            raise RunError("the loss is nan")
        pretend(loaded, **rest)

    monkeypatch.setattr(workers, "train", fail)
    settings = {"seeds": [0], "on": "other", "workers": 1}
    result = sweep(small, [RANKS], folder=tmp_path / "s", **settings)
    assert [(Path(lost.run).name, lost.why) for lost in result.failed] == [("small-rank4-0", "the loss is nan")]
    engine.fates[0] = lambda: True  # ended without a word
    with pytest.raises(RunError, match="no run is finished yet"):
        sweep(small, [RANKS], folder=tmp_path / "t", **settings)
    assert "worker 0 has ended before its end: " in caplog.text
    (lost,) = sweep(small, ["adapter.rank=2,3"], folder=tmp_path / "s", **settings).missing
    assert lost.run == str(tmp_path / "s" / "small-rank3-0")
    assert lost.why == f"not trained: the workers have ended without it, see {tmp_path / 's' / 'jobs'}"


def test_a_worker_that_finds_no_run_finished_tells_why(small, engine, monkeypatch, tmp_path):
    def fail(loaded, **rest) -> None:
        raise RunError("the loss is nan")

    monkeypatch.setattr(workers, "train", fail)
    with pytest.raises(RunError, match=r"small-rank2-0: .*the loss is nan"):
        sweep(small, [RANKS], seeds=[0], folder=tmp_path, on="other", workers=1)


def test_ctrl_c_cancels_them(small, engine, tmp_path):
    presses = [KeyboardInterrupt]

    def stop() -> bool:
        if presses:
            raise presses.pop()
        return False

    engine.fates = {0: lambda: False, 1: stop}
    with pytest.raises(Interrupted) as stopped:
        sweep(small, [RANKS], seeds=[0], folder=tmp_path, on="other", workers=2)
    assert engine.cancelled == [0, 1]
    line = f"lorakit sweep {small} {RANKS} --seeds 0 --folder {tmp_path} --workers 2 --on other"
    assert stopped.value.problems[0].hint == line


def test_who_is_still_in_the_queue_when_all_is_done_is_not_waited_for(small, engine, monkeypatch, tmp_path):
    monkeypatch.setattr(elsewhere, "PATIENCE", 0.05)
    engine.fates = {1: lambda: False}
    result = sweep(small, [RANKS], seeds=[0], folder=tmp_path, on="other", workers=2)
    assert (result.missing, engine.cancelled) == ([], [1])


def test_a_worker_that_fails_at_once_ends_no_other(small, engine, monkeypatch, tmp_path):
    monkeypatch.setattr(elsewhere, "PATIENCE", 0.0)
    looks = iter(range(4))

    def fail() -> bool:
        (call,) = tmp_path.glob("jobs/*/call.json")
        write_json(call.with_name("0.json"), {"failed": {"data.csv": "is not there"}, "over": False})
        return True

    engine.fates = {
        0: fail,
        1: lambda: next(looks, None) is None and Job(1, engine, next(tmp_path.glob("jobs/*/call.json"))).worked(),
    }
    result = sweep(small, [RANKS], seeds=[0], folder=tmp_path, on="other", workers=2)
    assert (result.failed, result.missing, engine.cancelled) == ([], [], [])


def test_a_machine_without_the_folder_is_told(tmp_path):
    with pytest.raises(RunError, match=r"call\.json: is not on this machine, .*\n *try: a --folder that all machines"):
        work(tmp_path / "call.json", 0)


def test_an_error_of_a_worker_is_kept(tmp_path, caplog):
    call = tmp_path / "call.json"
    given = {"recipe": "nosuch", "overrides": []}
    write_json(call, {"call": [sweep.__module__, "sweep"], "given": given, "folder": str(Path.cwd())})
    with caplog.at_level(logging.ERROR):
        work(call, 7)
    assert read_json(tmp_path / "7.json") == {"failed": {"nosuch": "there is no recipe of this name"}, "over": False}


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (sweep, {"on": "rey"}, r"--on: there is no engine 'rey'\n *valid: ray or slurm.*\n *try: did you mean 'ray'"),
        (sweep, {"on": "other", "wait": False}, "--on other and --no-wait exclude each other"),
        (sweep, {"on": "other", "workers": 0}, "--workers: 0 is not a number of workers"),
        (sweep, {"on": "other", "slurm": ["a=b"]}, "--slurm-option: is for --on slurm, and this is --on other"),
        (sweep, {"slurm": ["a=b"]}, "--slurm-option: is for --on slurm"),
        (compare, {"on": "other", "train": False}, "--no-train and --on other exclude each other"),
        (submit_sweep, {"on": "other"}, r"--submit-only: is for a queue that keeps the jobs\n *valid: --on slurm"),
        (submit_compare, {}, "--submit-only: is for a queue"),
    ],
)
def test_what_cannot_be_handed_out_is_refused(small, engine, tmp_path, call, options, message):
    with pytest.raises(UsageError, match=message):
        call([small] if "compare" in call.__name__ else small, folder=tmp_path / "s", **({"workers": 2} | options))
    assert engine.starts == []
    assert not (tmp_path / "s").exists()
