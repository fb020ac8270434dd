"""A lock file that says who holds it, so that several workers share a folder and none is waited for after its death.

Of a process on this machine it is known whether it lives. One elsewhere gives signs of life: it writes how often it has, every
``BEAT`` seconds, into a file beside the lock. Who has watched that number stand still for ``SILENCE`` seconds by a clock of its own
takes the lock over. Nothing rests on other machines' clocks, on locks of the file system, or on files that are open being renamed: of
several workers one makes a link (``os.link``) first, on network file systems too.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from lorakit.artifacts.files import writing
from lorakit.errors import RunError

logger = logging.getLogger(__name__)

BEAT = 15.0  # seconds between signs of life
SILENCE = 120.0  # seconds without one, after which a worker elsewhere has ended

SEEN: dict[Path, tuple[str, float]] = {}
"""A lock -> its holder's last sign that this process has seen, and when it first saw that, by ``time.monotonic``."""


@dataclass(frozen=True)
class Worker:
    """Who holds a lock: host and process, when it was taken, and what tells the process from a later one of the same number.

    born: the process's start in clock ticks since boot, empty where the system does not say; token: of this one taking; machine: what
    tells hosts of one name apart, containers too; empty of older workers.
    """

    host: str
    pid: int
    born: str
    since: str
    token: str
    machine: str = ""

    @classmethod
    def this(cls) -> Worker:
        """This process, now."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), born(os.getpid()), now, uuid.uuid4().hex, this_machine())

    @property
    def near(self) -> bool:
        """Whether its process is one that this process would see."""
        return self.host == socket.gethostname() and self.machine in ("", this_machine())

    @property
    def dead(self) -> bool:
        """Whether the process is known to be gone; of one elsewhere nothing is known."""
        if not self.near:
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
        return self.near and (self.pid, self.born) == (os.getpid(), born(os.getpid()))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


UNKNOWN = Worker("an unknown host", 0, "", "an unknown time", "")
"""Who holds a lock that cannot be read."""


class Lock:
    """The file ``path`` while somebody holds it.

    mine: this worker, once the lock is ours; held_by: who has it where it is not; left_by: the dead worker it was taken over from.
    """

    def __init__(self, path: Path):
        self.path = path
        self.mine: Worker | None = None
        self.held_by: Worker | None = None
        self.left_by: Worker | None = None
        self.released = threading.Event()

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
                        self.face(draft, me)
            finally:
                draft.unlink(missing_ok=True)
        if self.mine is not None:
            self.beat(0)
            threading.Thread(target=self.live, daemon=True).start()

    def face(self, draft: Path, me: Worker) -> None:
        """There is a lock: it is a live worker's, or it becomes ours by ``draft``, or it has gone meanwhile."""
        worker = holder_in(self.path)
        if worker is None:
            return
        if not (worker.dead or silent(self.path, worker)):
            self.held_by = worker
            return
        heir = self.path.with_name(f".{self.path.name}.{worker.token or 'old'}.heir")
        try:
            os.link(draft, heir)
        except FileExistsError:  # one takes it over; where that one has died over it, the next try is another's
            other = holder_in(heir)
            if other is not None and (other.dead or (not other.near and unchanged(heir, other.token))):
                heir.unlink(missing_ok=True)
            self.held_by = other
            return
        try:
            if holder_in(self.path) == worker:  # and not of one who was faster: his is another token
                os.replace(draft, self.path)
                self.mine, self.left_by = me, worker
        finally:
            heir.unlink(missing_ok=True)

    def live(self) -> None:
        """Give signs of life until the lock is released; ends with the process, too."""
        count = 0
        while not self.released.wait(BEAT):
            count += 1
            with suppress(OSError):  # a full disk, a network that is away: then there is no sign
                self.beat(count)

    def beat(self, count: int) -> None:
        """One sign of life, whole at once."""
        if self.mine is None or self.released.is_set():
            return
        sign = beside(self.path)
        draft = sign.with_name(f"{sign.name}.{self.mine.token}")
        draft.write_text(f"{self.mine.token} {count}", encoding="utf-8")
        os.replace(draft, sign)

    def release(self) -> None:
        """Give it back, where it is still ours."""
        self.released.set()
        if self.mine is not None and holder_in(self.path) == self.mine:
            with suppress(OSError):
                beside(self.path).unlink()
            self.path.unlink(missing_ok=True)
        self.mine = None


@contextmanager
def claimed(path: Path, *, patient: bool = False) -> Iterator[Lock]:
    """A try at the lock in ``path``, given back at the end of the block; ``held_by`` tells whether another has it.

    patient: where that is a worker elsewhere, wait until it gives a sign of life, or has given none for ``SILENCE`` seconds.
    """
    lock = Lock(path)
    try:
        lock.take()
        if patient and lock.held_by is not None and not lock.held_by.near:
            first, worker = sign_of(path, lock.held_by), lock.held_by
            if first:
                logger.warning("%s: waiting up to %.0f seconds for a sign of life of %s", path, SILENCE, worker)
            while first and lock.held_by is not None and sign_of(path, lock.held_by) == first:
                time.sleep(BEAT / 3)
                lock.held_by = None
                lock.take()
        yield lock
    finally:
        lock.release()


def holder(path: Path) -> Worker | None:
    """The live worker that has the lock in ``path``; None where it is free. Nothing is taken or taken away."""
    worker = holder_in(path)
    return None if worker is None or worker.dead else worker


def check_held(path: Path) -> None:
    """Raises RunError where the lock in ``path`` is not this process's any more: another worker's, or taken away.

    This process was silent for too long then, asleep or cut off; who took over may have finished and given the lock back.
    """
    worker = holder_in(path)
    if worker == UNKNOWN or (worker is not None and worker.here):  # unknown: it cannot be read at the moment
        return
    silent_for = f"this process gave no sign of life for {SILENCE:.0f} seconds"
    if worker is None:
        raise RunError(
            f"the lock is gone: {silent_for} and another one has finished, or somebody deleted the file",
            where=str(path),
            hint="look at the run before it is gone on with",
        )
    raise RunError(
        f"taken over by {worker}: {silent_for}",
        where=str(path),
        hint="the other one goes on with it",
    )


def silent(path: Path, worker: Worker) -> bool:
    """Whether a worker elsewhere has given no sign of life while this process looked, several times, for ``SILENCE`` seconds."""
    if worker.near:
        return False
    sign = sign_of(path, worker)
    return bool(sign) and unchanged(path, sign)  # none: of an older lorakit, which gives none


def unchanged(path: Path, sign: str) -> bool:
    """Whether this process has seen the same sign at ``path`` for ``SILENCE`` seconds."""
    now, seen = time.monotonic(), SEEN.get(path)
    if seen is None or seen[0] != sign:
        SEEN[path] = (sign, now)
        return False
    return now - seen[1] > SILENCE


def sign_of(path: Path, worker: Worker) -> str:
    """The sign of life that there is beside the lock in ``path`` while ``worker`` has it; empty where there is none.

    The worker is part of it: what one before it left is watched for ``SILENCE`` seconds anew.
    """
    try:
        return f"{worker.token}: {beside(path).read_text(encoding='utf-8')}"
    except OSError:
        return ""


def beside(path: Path) -> Path:
    """The file of the signs of life of whoever holds the lock in ``path``."""
    return path.with_name(f".{path.name}.alive")


def holder_in(path: Path) -> Worker | None:
    """The worker that a lock file names, alive or not; None where there is no file. An unknown one, never taken for dead, where it is not
    one of ours.
    """
    try:
        return Worker(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):  # OSError: on network file systems, one that is just taken away
        return UNKNOWN


def born(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty where there is no telling, ``ended`` of one that is no more."""
    try:
        state, *told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state == "Z" else told[18]


@cache
def this_machine() -> str:
    """What tells this boot of this machine, and this container, from others of the same name; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
