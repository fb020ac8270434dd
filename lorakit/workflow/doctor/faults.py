"""A training or a search in a process of its own, which SIGKILL ends at a chosen point: no handler runs, nothing is flushed.

The processes are forked from one that has imported everything and computed nothing, so that each begins at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.artifacts import fault_points
from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.files import read_json
from lorakit.errors import LorakitError, RunError
from lorakit.recipe.load import LoadedRecipe
from lorakit.searching.allocator import comes_before_training
from lorakit.workflow.glora.evolve import evolve
from lorakit.workflow.train import train

TORN = ("half a record", "half a generation")
"""Points where a kill leaves the first half of the line that was to be written."""
BETWEEN = "between"
REFUSED = 3  # exit code of a process that ends with a LorakitError
PATIENCE = 900.0  # seconds after which a process is taken to hang


@dataclass(frozen=True)
class Kill:
    """SIGKILL, ``delay`` seconds after ``point`` has begun for the ``nth`` time in its process. ValueError for a point that is none."""

    point: str
    nth: int = 1
    delay: float = 0.0

    def __post_init__(self) -> None:
        FaultPoint(self.point)  # which knows the names


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    killed: by the Kill that it was given; where: in which points, from the outside in; code: else its exit code; said: what it
    printed; times and seconds: how often each point came, and what it took in all, where the process ended by itself.
    """

    killed: bool
    where: str
    code: int
    said: str
    times: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class FaultInjector:
    """Counts and times the fault points of this process, writes into the file ``notes`` which of them it is in, and kills it there."""

    def __init__(self, kill: Kill | None, notes: Path):
        self.kill = kill
        self.notes = notes
        self.timer: threading.Timer | None = None
        self.inside: list[tuple[str, float]] = []  # point, when it began
        self.times: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.stream = os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)

    def enter(self, point: str, about: tuple[Any, ...]) -> None:
        """Note it, and die in it where that is asked for."""
        self.inside.append((point, time.perf_counter()))
        self.times[point] += 1
        self.tell()
        if self.kill and (point, self.times[point]) == (self.kill.point, self.kill.nth):
            if point in TORN:
                tear(*about)
                die()
            self.die_after(self.kill.delay)

    def leave(self, point: str) -> None:
        """Note that it is over."""
        _, begun = self.inside.pop()
        self.seconds[point] += time.perf_counter() - begun
        self.tell()

    def die_after(self, delay: float) -> None:
        """Die now, or while the main thread works on."""
        if delay == 0:
            die()
        self.timer = threading.Timer(delay, die)
        self.timer.daemon = True
        self.timer.start()

    def tell(self) -> None:
        """Write where the process is: one short write, which a kill cannot tear."""
        where = " > ".join(point for point, _ in self.inside) or BETWEEN
        os.pwrite(self.stream, f"{where:<150}".encode(), 0)

    def conclude(self) -> None:
        """Write what there was to count; a kill that has not come by now will not come."""
        if self.timer is not None:
            self.timer.cancel()
        self.notes.write_text(json.dumps({"times": self.times, "seconds": self.seconds}), encoding="utf-8")


def tear(path: Path, record: Any) -> None:
    """Write the first half of the line that was to be written."""
    line = json.dumps(record)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line[: len(line) // 2])


def die() -> None:
    """End this process without a last word."""
    os.kill(os.getpid(), signal.SIGKILL)


def work(loaded: LoadedRecipe, folder: Path, resume: bool, kill: Kill | None, notes: Path) -> None:
    """All that the process does: what ``lorakit train`` does, or ``lorakit search`` for a recipe of GLoRA's search."""
    with notes.with_suffix(".log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    multiprocessing.set_start_method("fork", force=True)  # so that no lock has a name, which would outlive the process
    injector = FaultInjector(kill, notes)
    fault_points.install(injector)
    go = evolve if comes_before_training(loaded.recipe.search) else train
    try:
        go(loaded, run_dir=folder, resume=resume)
    except LorakitError as error:
        print(error, flush=True)
        sys.exit(REFUSED)
    injector.conclude()


def run_process(loaded: LoadedRecipe, folder: Path, *, resume: bool = False, kill: Kill | None = None) -> Ended:
    """Train, or search, into ``folder`` in a process of its own. Its notes lie beside the folder."""
    notes = folder.with_name(f"{folder.name}.notes")
    notes.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lorakit.tasks.metric_modules", "lorakit.reporting.page_figures"])
    process = context.Process(target=work, args=(loaded, folder, resume, kill, notes))
    process.start()
    try:
        process.join(PATIENCE)
        if process.exitcode is None:
            raise RunError(f"the process hangs in: {notes.read_text(encoding='utf-8').strip()}", where=str(folder))
    finally:
        process.kill()
    code = process.exitcode
    said = notes.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip()
    if code != 0:
        where = notes.read_text(encoding="utf-8").strip()
        return Ended(kill is not None and code == -signal.SIGKILL, where, code, said)
    return Ended(False, "", code, said, **read_json(notes))
