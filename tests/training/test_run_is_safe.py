"""A run's folder is trained by one process at a time, and no failed write takes away what was there before."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.runs import Bench, StopAt, records
from support.thinned import thinned

from lorakit.artifacts.adapter_file import check_saved, save_adapter
from lorakit.artifacts.files import mend
from lorakit.artifacts.lock import claimed
from lorakit.errors import Interrupted, RunError, UsageError
from lorakit.training.hooks import Hook, TrainState
from lorakit.workflow import resume

SETTINGS = ("adapter.dropout=0.2", "evaluation.every_steps=4", "run.log_every=3")


@contextmanager
def other_process(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    hold = f"""
from pathlib import Path
from lorakit.artifacts.lock import Lock
lock = Lock(Path({str(lock)!r}))
lock.take()
print("held", flush=True)
input()
"""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_is_trained_by_one_process(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run, lock = tmp_path / "run", tmp_path / "run.lock"
    with pytest.raises(Interrupted):
        bench.train(run_dir=run, hooks=[StopAt(3)])
    assert not lock.exists()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with other_process(lock) as process:
        with pytest.raises(UsageError, match=f"another process trains this run: process {process.pid} on") as caught:
            bench.train(run_dir=run, resume=True)
        assert str(lock) in caught.value.problems[0].hint
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        process.send_signal(signal.SIGKILL)
        process.wait()
        bench.train(run_dir=run, resume=True)  # a dead worker's lock is taken over
    assert f"taken over from process {process.pid}" in caplog.text
    assert not lock.exists()


def test_a_new_run_does_not_start_where_another_does(bench: Bench, tmp_path: Path):
    with other_process(tmp_path / "run.lock"), pytest.raises(UsageError, match="another process trains this run"):
        bench.train(run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_who_holds_the_lock_already_trains(bench: Bench, tmp_path: Path):
    with claimed(tmp_path / "run.lock") as lock:
        bench.train("training.max_steps=1", run_dir=tmp_path / "run")
        assert lock.path.exists()


class FullAfter(Hook):
    """From a step on no file may grow beyond ``size`` bytes, as on a full disk."""

    def __init__(self, step: int, size: int):
        self.step, self.size = step, size

    def after_step(self, state: TrainState) -> None:
        if state.step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("size", thinned([0, 300, 9000], 3), ids=["nothing fits", "lines fit", "small files fit"])
def test_a_full_disk_is_one_message_and_takes_nothing_away(bench: Bench, tmp_path: Path, size: int):
    run = tmp_path / "run"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(RunError, match="cannot be written") as caught:
            bench.train(*SETTINGS, run_dir=run, hooks=[FullAfter(7, size)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, handler)
    assert str(run) in caught.value.problems[0].where
    assert not [path for path in run.rglob("*") if ".partial" in path.name]
    bench.train(*SETTINGS, run_dir=run, resume=True)
    assert records(run) == records(bench.train(*SETTINGS).run_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_message(bench: Bench, tmp_path: Path):
    (tmp_path / "runs").mkdir(mode=0o500)
    with pytest.raises(RunError, match="cannot be written: Permission denied"):
        bench.train(run_dir=tmp_path / "runs" / "run")


def test_a_file_in_the_way_is_one_message(bench: Bench, tmp_path: Path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        bench.train(run_dir=tmp_path / "runs" / "run")


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (("best", ".best.partial"), "best"),
        ((".best.old", ".best.partial"), ".best.old"),
        ((".best.old", "best"), "best"),
    ],
    ids=["while the new one is written", "between the two renames", "before the old one is deleted"],
)
def test_a_folder_killed_while_it_changes_places_comes_back(tmp_path: Path, left: tuple[str, ...], expected: str):
    for name in left:
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "from").write_text(name)
    (tmp_path / "run" / ".summary.json.partial").write_text("{")
    mend(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best"]
    assert (tmp_path / "run" / "best" / "from").read_text() == expected


def test_a_saved_adapter_is_compared_with_what_was_trained(bench: Bench, tmp_path: Path):
    """What the check at a run's end would find: a number changed, the head left out, ranks or counts that differ."""
    training = bench.prepare(tmp_path / "run")
    path = tmp_path / "run" / "adapter"

    def spoil(change: str) -> str:
        save_adapter(training.adapted, path)
        tensors, told = load_file(path / "adapter_model.safetensors"), json.loads((path / "lorakit.json").read_text())
        head = next(name for name in tensors if "classifier" in name)
        if change == "number":
            tensors[head].view(-1)[0] += 1
        elif change == "head":
            del tensors[head]
        elif change == "rank":
            told["sites"][0]["rank"] += 1
        elif change == "count":
            told["adapter_parameters"] += 1
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "lorakit.json").write_text(json.dumps(told))
        with pytest.raises(RunError) as caught:
            check_saved(training.adapted, path)
        return str(caught.value)

    save_adapter(training.adapted, path)
    check_saved(training.adapted, path)
    assert "was not saved as it was trained" in spoil("number")
    assert "was not saved as it was trained" in spoil("head")
    assert "the ranks that were saved" in spoil("rank")
    assert "the parameters that were saved" in spoil("count")


def test_a_training_that_was_taken_over_stops(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It was asleep for so long that a worker elsewhere went on with its run."""
    lock = tmp_path / "run.lock"
    monkeypatch.setattr(resume, "BEAT", 0.0)

    class Asleep(Hook):
        def before_forward(self, state: TrainState) -> None:
            if state.step == 2:
                lock.write_text(json.dumps(json.loads(lock.read_text()) | {"host": "elsewhere", "token": "other"}))

    with pytest.raises(RunError, match="taken over by process"):
        bench.train("run.checkpoint_every=100", run_dir=tmp_path / "run", hooks=[Asleep()])
    assert json.loads(lock.read_text())["host"] == "elsewhere"
    assert not (tmp_path / "run" / "summary.json").exists()
