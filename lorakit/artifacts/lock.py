"""A lock file that says who holds it, so that several workers share a folder and none is waited for after its death."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from lorakit.artifacts.files import writing


@dataclass(frozen=True)
class Worker:
    """Who holds a lock: host and process, when it was taken, and what tells the process from a later one of the same number.

    born: the process's start in clock ticks since boot, empty where the system does not say; token: of this one taking.
    """

    host: str
    pid: int
    born: str
    since: str
    token: str

    @classmethod
    def this(cls) -> Worker:
        """This process, now."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), born(os.getpid()), now, uuid.uuid4().hex)

    @property
    def dead(self) -> bool:
        """Whether the process is known to be gone; of another host nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's process
            pass
        return born(self.pid) not in ("", self.born) if self.born else False

    @property
    def here(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.pid, self.born) == (socket.gethostname(), os.getpid(), born(os.getpid()))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """The file ``path`` while somebody holds it.

    mine: this worker, once the lock is ours; held_by: who has it where it is not; left_by: the dead worker it was taken over from.
    """

    def __init__(self, path: Path):
        self.path = path
        self.mine: Worker | None = None
        self.held_by: Worker | None = None
        self.left_by: Worker | None = None

    def take(self) -> None:
        """Take the lock, in one step for all workers, unless a live one has it."""
        me = Worker.this()
        draft = self.path.with_name(f".{self.path.name}.{me.token}")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(me)), encoding="utf-8")
            try:
                while self.mine is None and self.held_by is None:
                    try:
                        os.link(draft, self.path)  # whole at once, and refused where there is one
                        self.mine = me
                    except FileExistsError:
                        self.held_by = self.live_holder()
            finally:
                draft.unlink()

    def live_holder(self) -> Worker | None:
        """Who has it; None where it is free, as it is after a dead worker's lock was taken away."""
        try:
            stream = self.path.open(encoding="utf-8")
        except FileNotFoundError:
            return None
        with stream:
            worker = read(stream.read())
            if not worker.dead:
                return worker
            fcntl.flock(stream, fcntl.LOCK_EX)  # of several that find it, one takes it away: this file, not a newer one
            with suppress(FileNotFoundError):
                if os.fstat(stream.fileno()).st_ino == self.path.stat().st_ino:
                    self.path.unlink()
                    self.left_by = worker
            return None

    def release(self) -> None:
        """Give it back, where it is still ours."""
        with suppress(FileNotFoundError):
            if self.mine is not None and read(self.path.read_text(encoding="utf-8")) == self.mine:
                self.path.unlink()
        self.mine = None


@contextmanager
def claimed(path: Path) -> Iterator[Lock]:
    """A try at the lock in ``path``, given back at the end of the block; ``held_by`` tells whether another has it."""
    lock = Lock(path)
    try:
        lock.take()
        yield lock
    finally:
        lock.release()


def holder(path: Path) -> Worker | None:
    """The live worker that has the lock in ``path``; None where it is free. Nothing is taken or taken away."""
    try:
        worker = read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return None if worker.dead else worker


def read(text: str) -> Worker:
    """The worker that a lock file names; an unknown one, never taken for dead, where it is not one of ours."""
    try:
        return Worker(**json.loads(text))
    except (ValueError, TypeError):
        return Worker("an unknown host", 0, "", "an unknown time", "")


def born(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty where there is no telling, ``ended`` of one that is no more."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state == "Z" else fields[18]
