"""A training or a search in a process of its own, which SIGKILL ends at a chosen moment: no handler runs, nothing is flushed.

The processes are forked from one that has imported everything and computed nothing, so that each begins at once.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.artifacts import adapter_file
from lorakit.artifacts.files import read_json
from lorakit.artifacts.run import Run
from lorakit.errors import LorakitError, RunError
from lorakit.recipe.load import LoadedRecipe
from lorakit.recipe.schema import EVOLUTION
from lorakit.training import checkpoint, loop
from lorakit.training.search_hook import SearchHook
from lorakit.workflow import train as running
from lorakit.workflow.glora import evolve as evolving
from lorakit.workflow.glora import supernet
from lorakit.workflow.glora.evolve import evolve
from lorakit.workflow.train import train

TORN, TORN_GENERATION = "half a record", "half a generation"
MOMENTS: dict[str, tuple[Any, str]] = {
    "training": (running, "run_loop"),
    "resuming": (running, "load_checkpoint"),
    "step": (loop, "step"),
    "tick": (SearchHook, "on_tick"),
    "evaluation": (loop, "evaluate"),
    "checkpoint": (loop, "save"),
    "last adapter": (running, "save_adapter"),
    "figures": (running, "draw"),
    "summary": (Run, "write_summary"),
    "evolution": (evolving, "advance"),
    "configuration": (supernet.Supernet, "fitness"),
    "found run": (evolving, "save_found"),
    "checkpoint's tensors": (checkpoint, "save_tensors"),
    "adapter's tensors": (adapter_file, "save_tensors"),
    "naming": (os, "replace"),
    "removing": (shutil, "rmtree"),
    TORN: (Run, "append"),
    TORN_GENERATION: (evolving, "append_json"),
}
"""What a process may be killed in: the function that does it. Naming: what was written beside its place is about to take it."""
BETWEEN = "between"
REFUSED = 3  # exit code of a process that ends with a LorakitError
PATIENCE = 900.0  # seconds after which a process is taken to hang


@dataclass(frozen=True)
class Kill:
    """SIGKILL, ``delay`` seconds after the moment (of MOMENTS) has begun for the ``nth`` time in its process."""

    moment: str
    nth: int = 1
    delay: float = 0.0


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    killed: by the Kill that it was given; where: in what, from the outside in; code: else its exit code; said: what it printed;
    times and seconds: how often each moment began, and what it took in all, where the process ended by itself.
    """

    killed: bool
    where: str
    code: int
    said: str
    times: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Fuse:
    """Counts and times the moments of this process, writes into a file which of them it is in, and kills it in the chosen one."""

    def __init__(self, kill: Kill | None, path: Path):
        self.kill = kill
        self.path = path
        self.timer: threading.Timer | None = None
        self.inside: list[str] = []
        self.times: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.stream = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for moment, (owner, name) in MOMENTS.items():
            setattr(owner, name, self.watched(moment, getattr(owner, name)))

    def watched(self, moment: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, as the moment that it is."""

        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.inside.append(moment)
            self.times[moment] += 1
            self.tell()
            begun = time.perf_counter()
            try:
                if self.kill and (moment, self.times[moment]) == (self.kill.moment, self.kill.nth):
                    self.light(self.kill, args)
                return call(*args, **kwargs)
            finally:
                self.seconds[moment] += time.perf_counter() - begun
                self.inside.pop()
                self.tell()

        return watched

    def light(self, kill: Kill, args: tuple[Any, ...]) -> None:
        """Die now, or while the main thread works on."""
        if kill.moment == TORN:
            run, name, record = args
            tear(run.path / f"{name}.jsonl", record)
        if kill.moment == TORN_GENERATION:
            tear(*args)
        if kill.delay == 0:
            die()
        self.timer = threading.Timer(kill.delay, die)
        self.timer.daemon = True
        self.timer.start()

    def tell(self) -> None:
        """Write where the process is: one short write, which a kill cannot tear."""
        os.pwrite(self.stream, f"{' > '.join(self.inside) or BETWEEN:<150}".encode(), 0)

    def conclude(self) -> None:
        """Write what there was to count; a kill that has not come by now will not come."""
        if self.timer is not None:
            self.timer.cancel()
        self.path.write_text(json.dumps({"times": self.times, "seconds": self.seconds}), encoding="utf-8")


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
    fuse = Fuse(kill, notes)
    go = evolve if loaded.recipe.search.method == EVOLUTION else train
    try:
        go(loaded, run_dir=folder, resume=resume)
    except LorakitError as error:
        print(error, flush=True)
        sys.exit(REFUSED)
    fuse.conclude()


def run_process(loaded: LoadedRecipe, folder: Path, *, resume: bool = False, kill: Kill | None = None) -> Ended:
    """Train, or search, into ``folder`` in a process of its own. Its notes lie beside the folder."""
    notes = folder.with_name(f"{folder.name}.notes")
    notes.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lorakit.tasks.metric_modules", "lorakit.reporting.drawings"])
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
