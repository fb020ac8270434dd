"""Workers that share a folder: who trains which run, and what a failure or a Ctrl-C leaves behind."""

import json
import logging
import multiprocessing
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.runs import Bench

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.lock import Lock, Worker, claimed
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, RunError
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.arms import gather
from lorakit.workflow.experiments.request import unwatched
from lorakit.workflow.experiments.workers import Missing, train_missing


@pytest.fixture
def entries(bench: Bench, tmp_path: Path):
    """Six runs that are to be trained."""
    (arm,) = gather([str(bench.load(name="plain").path)], [], range(6), tmp_path / "runs")
    return list(arm.entries.values())


def pretend(loaded, *, run_dir, resume, hooks) -> None:
    """In place of a training: writes what says that there was one, and who did it."""
    run = Run(run_dir)
    write_text(run.recipe, loaded.to_yaml())
    with (run_dir.parent / "log").open("a") as log:
        log.write(f"{os.getpid()} {run_dir.name}\n")
    time.sleep(0.02)
    run.write_summary({})


def work(entries, results, start) -> None:
    start.wait()
    results.put(train_missing(entries, len(entries), unwatched, wait=True, again=""))


def test_two_workers_train_every_run_once(entries, tmp_path, monkeypatch):
    meet = multiprocessing.get_context("fork").Barrier(2, timeout=60)
    met = []

    def meet_first(*args, **kwargs) -> None:  # both are in their first training at the same time
        if not met:
            met.append(meet.wait())
        pretend(*args, **kwargs)

    monkeypatch.setattr(workers, "train", meet_first)
    monkeypatch.setattr(workers, "POLL", 0.01)
    context = multiprocessing.get_context("fork")
    results, start = context.Queue(), context.Barrier(2, timeout=60)
    two = [context.Process(target=work, args=(entries, results, start)) for _ in range(2)]
    for worker in two:
        worker.start()
    assert [results.get(timeout=60) for _ in two] == [([], []), ([], [])]
    for worker in two:
        worker.join(60)
    done = [line.split() for line in (tmp_path / "runs" / "log").read_text().splitlines()]
    assert sorted(name for _, name in done) == [f"plain-{seed}" for seed in range(6)]
    assert {int(pid) for pid, _ in done} == {worker.pid for worker in two}
    assert list((tmp_path / "runs").glob("*.lock")) == []


def test_a_run_that_another_worker_trains_is_waited_for(entries, monkeypatch, caplog):
    monkeypatch.setattr(workers, "train", pretend)
    path = entries[0].run.path
    theirs = Lock(path.with_name(f"{path.name}.lock"))
    theirs.take()
    looks = []

    def other_worker(seconds: float) -> None:  # what happens while this one sleeps
        assert [entry.run.finished for entry in entries] == [seed != 0 for seed in range(6)]
        looks.append(seconds)
        if len(looks) == 2:
            pretend(entries[0].loaded, run_dir=path, resume=False, hooks=[])
            theirs.release()

    monkeypatch.setattr(
        workers.time, "sleep", lambda seconds: other_worker(seconds) if seconds == workers.POLL else None
    )
    with caplog.at_level(logging.INFO, logger="lorakit"):
        assert train_missing(entries, 6, unwatched, wait=True, again="") == ([], [])
    assert caplog.text.count(f"{path} is being trained by process {os.getpid()} on ") == 1  # told once
    assert (path.parent / "log").read_text().count("plain-0") == 1


def test_without_waiting_it_is_reported(entries, monkeypatch):
    monkeypatch.setattr(workers, "train", pretend)
    path = entries[2].run.path
    with claimed(path.with_name(f"{path.name}.lock")) as lock:
        failed, held = train_missing(entries, 6, unwatched, wait=False, again="")
        assert (failed, held) == ([], [Missing(str(path), f"another worker trains it: {lock.mine}")])
    assert sum(entry.run.finished for entry in entries) == 5


def test_a_dead_workers_run_is_taken_over(entries, monkeypatch, caplog):
    monkeypatch.setattr(workers, "train", pretend)
    process = subprocess.Popen(["true"])
    process.wait()
    path = entries[0].run.path
    path.parent.mkdir(parents=True)
    dead = replace(Worker.this(), pid=process.pid)
    (path.parent / f"{path.name}.lock").write_text(json.dumps(asdict(dead)))
    with caplog.at_level(logging.INFO, logger="lorakit"):
        assert train_missing(entries[:1], 1, unwatched, wait=True, again="") == ([], [])
    assert f"taken over from {dead}" in caplog.text
    assert entries[0].run.finished


@pytest.mark.parametrize("error", [RunError("the loss is nan at step 3"), ZeroDivisionError("by zero")])
def test_a_failure_does_not_lose_the_others(entries, monkeypatch, error, caplog):
    def fail_second(loaded, **settings) -> None:
        if loaded.recipe.run.seed == 1:
            raise error
        pretend(loaded, **settings)

    monkeypatch.setattr(workers, "train", fail_second)
    failed, held = train_missing(entries, 6, unwatched, wait=True, again="")
    assert [lost.run for lost in failed] == [str(entries[1].run.path)]
    assert str(error) in failed[0].why
    assert held == []
    assert [entry.run.finished for entry in entries] == [seed != 1 for seed in range(6)]
    assert ("Traceback" in caplog.text) == isinstance(error, ZeroDivisionError)
    assert list(entries[0].run.path.parent.glob("*.lock")) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped after step 2 of 9", hint="something else")])
def test_ctrl_c_keeps_what_is_done_and_tells_how_to_go_on(entries, monkeypatch, stop):
    def stop_at_third(loaded, **settings) -> None:
        if loaded.recipe.run.seed == 2:
            raise stop
        pretend(loaded, **settings)

    monkeypatch.setattr(workers, "train", stop_at_third)
    with pytest.raises(Interrupted, match="finished runs are kept") as stopped:
        train_missing(entries, 6, unwatched, wait=True, again="lorakit compare plain")
    assert stopped.value.problems[0].hint == "lorakit compare plain"
    assert [entry.run.finished for entry in entries] == [True, True, False, False, False, False]
    assert list(entries[0].run.path.parent.glob("*.lock")) == []


def test_a_run_without_a_checkpoint_is_trained_anew(entries, monkeypatch):
    resumed = []
    monkeypatch.setattr(
        workers, "train", lambda loaded, **settings: (resumed.append(settings["resume"]), pretend(loaded, **settings))
    )
    run = entries[0].run
    write_text(run.recipe, entries[0].loaded.to_yaml())
    write_json(run.path / "metrics.json", [])
    assert train_missing(entries[:1], 1, unwatched, wait=True, again="") == ([], [])
    assert resumed == [False]
    assert not (run.path / "metrics.json").exists()


def test_a_recipe_that_another_worker_changed_is_a_failure_of_that_run(bench: Bench, entries, monkeypatch):
    monkeypatch.setattr(workers, "train", pretend)
    write_text(entries[0].run.recipe, bench.load("adapter.rank=2", name="plain").to_yaml())
    failed, _ = train_missing(entries, 6, unwatched, wait=True, again="")
    assert "differs in adapter.rank" in failed[0].why
    assert [entry.run.finished for entry in entries] == [seed != 0 for seed in range(6)]
