"""Who holds a lock, and what becomes of one whose holder has died."""

import json
import multiprocessing
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lorakit.artifacts.lock import Lock, Worker, born, claimed
from lorakit.errors import RunError


def dead_worker() -> Worker:
    process = subprocess.Popen(["true"])
    process.wait()
    return replace(Worker.this(), pid=process.pid, born="1", token="dead")


def leave(path: Path, worker: Worker) -> None:
    path.write_text(json.dumps(asdict(worker)))


def test_a_lock_says_who_holds_it_and_is_gone_after_the_block(tmp_path):
    path = tmp_path / "folder" / "run.lock"
    with claimed(path) as lock:
        assert (lock.held_by, lock.left_by) == (None, None)
        record = json.loads(path.read_text())
        assert (record["host"], record["pid"]) == (os.uname().nodename, os.getpid())
        with claimed(path) as second:
            assert second.held_by == lock.mine
            assert second.mine is None
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_it_is_given_back_when_the_block_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "run.lock"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_dead_worker_of_this_host_is_taken_over_from(tmp_path):
    path = tmp_path / "run.lock"
    dead = dead_worker()
    leave(path, dead)
    with claimed(path) as lock:
        assert lock.left_by == dead
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_later_process_of_the_same_number_is_another_one(tmp_path):
    if not born(os.getpid()):
        pytest.skip("this system does not tell when a process started")
    me = Worker.this()
    assert not me.dead
    assert replace(me, born="1").dead


@pytest.mark.parametrize("worker", [replace(Worker.this(), host="elsewhere", pid=2**22 + 1), None])
def test_of_others_nothing_is_known_so_they_are_alive(tmp_path, worker):
    path = tmp_path / "run.lock"
    if worker is None:
        path.write_text("not one of ours")
    else:
        leave(path, worker)
    with claimed(path) as lock:
        assert lock.held_by is not None
    assert path.exists()


def test_only_our_own_lock_is_removed(tmp_path):
    lock = Lock(tmp_path / "run.lock")
    lock.take()
    other = replace(Worker.this(), host="elsewhere")
    leave(lock.path, other)
    lock.release()
    assert json.loads(lock.path.read_text())["host"] == "elsewhere"


def take_once(path: Path, start, results) -> None:
    lock = Lock(path)
    start.wait()
    lock.take()
    results.put(lock.mine is not None)
    start.wait()  # all have tried before anyone ends, who would be a dead holder then


def test_of_many_that_find_a_dead_workers_lock_one_gets_it(tmp_path):
    context, number = multiprocessing.get_context("fork"), 6
    for trial in range(5):
        path = tmp_path / f"{trial}.lock"
        leave(path, dead_worker())
        start, results = context.Barrier(number, timeout=30), context.Queue()
        workers = [context.Process(target=take_once, args=(path, start, results)) for _ in range(number)]
        for worker in workers:
            worker.start()
        assert sum(results.get(timeout=30) for _ in workers) == 1
        for worker in workers:
            worker.join(30)


def test_a_place_where_no_lock_can_be_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Lock(tmp_path / "file" / "run.lock").take()
