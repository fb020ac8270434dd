"""Who holds a lock, and what becomes of one whose holder has died."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lorakit.artifacts import lock as module
from lorakit.artifacts.lock import Lock, Worker, born, check_held, claimed, silent
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


# -- workers elsewhere ------------------------------------------------------------------------------------------------


HOST = """
import socket, sys, time
socket.gethostname = lambda: "elsewhere"
from pathlib import Path
from lorakit.artifacts import lock as module
module.BEAT = 0.02
lock = module.Lock(Path(sys.argv[1]))
lock.take()
print("held" if lock.mine else "refused", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def elsewhere():
    """``elsewhere(path)``: a process on another host, as far as names tell, that takes the lock and lives until it is killed."""
    begun = []

    def begin(path: Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen([sys.executable, "-c", HOST, str(path)], stdin=pipe, stdout=pipe, text=True))
        assert begun[-1].stdout.readline() == "held\n"
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def tries(path: Path, seconds: float) -> Worker | None:
    """The dead worker that the lock was taken over from, within so many seconds of trying; None where it never was ours."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with claimed(path) as lock:
            if lock.mine:
                return lock.left_by
        time.sleep(0.01)
    return None


def test_a_worker_elsewhere_is_taken_over_from_after_its_silence_alone(tmp_path, monkeypatch, elsewhere):
    monkeypatch.setattr(module, "SILENCE", 0.5)
    path = tmp_path / "run.lock"
    other = elsewhere(path)
    assert tries(path, 1.5) is None  # it lives: thrice the silence
    other.kill()
    assert tries(path, 30).host == "elsewhere"
    assert list(tmp_path.iterdir()) == []


def test_two_hosts_find_the_same_silence_and_one_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.0)
    gone = replace(Worker.this(), host="gone")
    first, second = tmp_path / "run.lock", Lock(tmp_path / "run.lock")
    leave(first, gone)
    (tmp_path / ".run.lock.alive").write_text("gone 7")
    assert not silent(first, gone)  # seen for the first time
    time.sleep(0.01)
    link, faster = os.link, Lock(first)

    def late(source: Path, target: Path) -> None:
        """Both have found the silence; before the second acts on it, the first takes over, from start to end."""
        if target.suffix == ".heir" and not faster.mine and not faster.held_by:
            monkeypatch.setattr(os, "link", link)
            faster.take()
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    second.take()
    assert faster.left_by == gone
    assert (second.mine, second.held_by) == (None, faster.mine)
    assert module.holder_in(first) == faster.mine
    faster.release()
    assert [path for path in tmp_path.iterdir() if "alive" not in path.name] == []


def test_one_who_died_taking_over_is_in_nobodys_way(tmp_path):
    path, dead = tmp_path / "run.lock", dead_worker()
    leave(path, dead)
    leave(tmp_path / ".run.lock.dead.heir", replace(dead, token="heir"))
    with claimed(path) as lock:
        assert lock.held_by is not None
    with claimed(path) as lock:
        assert lock.left_by == dead


def test_one_elsewhere_who_died_taking_over_is_in_nobodys_way_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.05)
    path, dead = tmp_path / "run.lock", dead_worker()
    leave(path, dead)
    leave(tmp_path / ".run.lock.dead.heir", replace(dead, host="elsewhere", token="heir"))
    with claimed(path) as lock:
        assert lock.held_by is not None
    assert tries(path, 10) == dead


def test_patience_ends_at_a_sign_of_life_or_with_the_silence(tmp_path, monkeypatch, caplog, elsewhere):
    monkeypatch.setattr(module, "BEAT", 0.03)
    path = tmp_path / "run.lock"
    other, began = elsewhere(path), time.monotonic()
    with claimed(path, patient=True) as lock:
        assert lock.held_by.host == "elsewhere"
    assert time.monotonic() - began < module.SILENCE / 10
    monkeypatch.setattr(module, "SILENCE", 0.5)
    other.kill()
    other.wait()
    with claimed(path, patient=True) as lock:
        assert lock.left_by.host == "elsewhere"
    assert "waiting up to" in caplog.text


def test_a_container_of_the_same_name_is_elsewhere():
    me = Worker.this()
    assert me.near
    assert replace(me, machine="").near  # of an older worker
    other = replace(me, machine="another boot", born="1")
    assert not other.near
    assert not other.dead


def test_who_was_taken_over_from_stops(tmp_path):
    path = tmp_path / "run.lock"
    with claimed(path) as lock:
        check_held(path)
        leave(path, replace(lock.mine, host="elsewhere", token="other"))
        with pytest.raises(RunError, match=r"taken over by process \d+ on elsewhere"):
            check_held(path)
    assert json.loads(path.read_text())["host"] == "elsewhere"  # it is the other's


def test_who_was_taken_over_from_stops_when_the_other_has_finished_too(tmp_path):
    path = tmp_path / "run.lock"
    with claimed(path):
        check_held(path)
        path.unlink()
        with pytest.raises(RunError, match="the lock is gone"):
            check_held(path)


def test_a_lock_that_cannot_be_read_now_is_no_reason_to_stop(tmp_path):
    path = tmp_path / "run.lock"
    with claimed(path):
        held = path.read_text()
        path.write_text("")
        check_held(path)
        path.write_text(held)


def test_the_sign_of_the_one_before_is_not_the_silence_of_a_new_holder(tmp_path, monkeypatch):
    """A third worker looks after another has taken the lock over, and before that one's first sign of life."""
    monkeypatch.setattr(module, "SILENCE", 0.0)
    path, gone = tmp_path / "run.lock", replace(Worker.this(), host="gone")
    leave(path, gone)
    (tmp_path / ".run.lock.alive").write_text(f"{gone.token} 7")
    assert not silent(path, gone)
    time.sleep(0.01)
    assert silent(path, gone)
    heir = replace(gone, host="heir", token="heir")
    leave(path, heir)
    assert not silent(path, heir)
