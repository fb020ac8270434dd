"""Workers that Ray or Slurm starts, on other machines too: each does the same call, and they share the runs through its folder.

This process starts them, waits and tells what came out; it trains nothing. What passes between the two lies in the folder, for every
start in a folder of its own, with the engine's logs:

    FOLDER/jobs/TOKEN/call.json    what a worker does; one that does not find it is on a machine that does not have the folder
                      N.json       what worker N came to: runs that failed and why, and whether it has seen all of them done
"""

from __future__ import annotations

import importlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from lorakit.artifacts.files import read_json, write_json
from lorakit.errors import Interrupted, LorakitError, RunError, UsageError, nearest
from lorakit.result import Result
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.arms import Entry
from lorakit.workflow.experiments.more_workers import arguments, more_workers
from lorakit.workflow.experiments.request import Request
from lorakit.workflow.experiments.workers import Missing, stoppable, train_missing

logger = logging.getLogger(__name__)

ENGINES = {"ray": "lorakit.workflow.experiments.on_ray", "slurm": "lorakit.workflow.experiments.on_slurm"}
"""What ``--on`` names -> its module, imported where it is asked for: what it needs is optional."""
JOBS = "jobs"
CALL = "call.json"
PATIENCE = 60.0  # seconds that a worker has for its end once another has seen all runs done

Trainer = Callable[..., tuple[list[Missing], list[Missing]]]
"""``train_missing`` with what it needs: the runs that are wanted, and how many there are in all -> those that failed, and are missing."""


@dataclass(frozen=True)
class Submitted(Result):
    """Jobs that were handed to a queue.

    Attributes:
        folder: where the runs will be.
        jobs: their numbers in the queue.
        logs: where what they say is.
        earlier: whether they were submitted by an earlier call, and are not done: then no others were.
        again: the command that waits for them and tells what they came to.
    """

    folder: Path
    jobs: list[str]
    logs: Path
    earlier: bool
    again: str


class Job(Protocol):
    """A worker that an engine starts. number: among those of the call; name: what the engine calls it; log: where what it says is;
    mine: whether this call started it.
    """

    @property
    def number(self) -> int: ...  # noqa: D102 - as above

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def log(self) -> Path: ...  # noqa: D102

    @property
    def mine(self) -> bool: ...  # noqa: D102

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def cancel(self) -> None:
        """Ask for its end."""


class Engine(Protocol):
    """What starts workers."""

    def check(self, asked: Request) -> None:
        """Raises UsageError where this cannot be: not installed, wrong options."""

    def started(self, call: Path, asked: Request, most: int) -> AbstractContextManager[Sequence[Job]]:
        """As many workers as are asked for, and at most so many, while the block lasts or longer."""


def engine(name: str) -> Engine:
    """The engine of that name. UsageError where there is none."""
    if name not in ENGINES:
        valid, hint = " or ".join(ENGINES), nearest(name, ENGINES)
        raise UsageError(f"there is no engine '{name}'", where="--on", valid=valid, hint=hint)
    module: Any = importlib.import_module(ENGINES[name])
    found: Engine = module.ENGINE
    return found


def check_engine(asked: Request) -> None:
    """Raises UsageError for workers that cannot be started as it is asked for, before anything else is looked at."""
    if asked.on is None:
        if asked.slurm:
            raise UsageError("is for --on slurm", where="--slurm-option")
        return
    used = engine(asked.on)
    if asked.slurm and asked.on != "slurm":
        raise UsageError(f"is for --on slurm, and this is --on {asked.on}", where="--slurm-option")
    if not asked.wait:
        hint = "--submit-only, with --on slurm" if asked.on == "slurm" else ""
        raise UsageError(f"--on {asked.on} and --no-wait exclude each other", hint=hint)
    if asked.workers is not None and asked.workers < 1:
        raise UsageError(
            f"{asked.workers} is not a number of workers", where="--workers", valid="a whole number from 1"
        )
    used.check(asked)


def check_submitted(asked: Request) -> None:
    """Raises UsageError for an engine whose workers end with the process that started them."""
    if asked.on != "slurm":
        raise UsageError("is for a queue that keeps the jobs", where="--submit-only", valid="--on slurm")


@contextmanager
def trainer(call: Any, asked: Request, folder: Path, runs: int, again: str) -> Iterator[Trainer]:
    """A block that has what trains missing runs: this process with others beside it, or workers elsewhere.

    call: the public function of ``asked``, which the others do too; runs: how many are to be trained, and so how many workers have
    something to do at most; again: the command that goes on.
    """
    if asked.on is not None:
        yield Elsewhere(call, asked, folder, runs, again)
        return
    with more_workers(call, asked, folder, runs):
        yield partial(train_missing, watch=asked.watch, wait=asked.wait, again=again)


class Elsewhere:
    """Workers of an engine, started once something is missing; as a function it is a ``Trainer``."""

    def __init__(self, call: Any, asked: Request, folder: Path, runs: int, again: str):
        self.call, self.asked, self.folder, self.runs, self.again = call, asked, folder, runs, again
        self.engine = engine(asked.on or "")
        self.over = False
        self.failed: dict[str, str] = {}

    def __call__(self, wanted: Sequence[Entry], total: int) -> tuple[list[Missing], list[Missing]]:
        """See that ``wanted`` are trained: those that failed, and those that are still missing once the workers have ended."""
        if wanted:
            self.see_done(wanted, total)
        left = [entry for entry in wanted if not entry.run.finished]
        why = [(str(entry.run.path), self.failed.get(str(entry.run.path))) for entry in left]
        missing = "not trained: the workers have ended without it, see " + str(self.folder / JOBS)
        return [Missing(run, told) for run, told in why if told], [
            Missing(run, missing) for run, told in why if not told
        ]

    def see_done(self, wanted: Sequence[Entry] = (), total: int = 0) -> None:
        """Start the workers and wait for their end, once: they do the whole call."""
        if self.over:
            return
        with stoppable(self.again), self.engine.started(self.written(), self.asked, max(self.runs, 1)) as jobs:
            logger.info("%d workers by %s: what they say is in %s", len(jobs), self.asked.on, jobs[0].log.parent)
            for job in wait_for(jobs, wanted, total):
                self.hear(job)
        self.over = True

    def submit(self) -> Submitted:
        """Start the workers, which outlive this process, and wait for nothing."""
        with self.engine.started(self.written(), self.asked, max(self.runs, 1)) as jobs:
            return Submitted(self.folder, [job.name for job in jobs], jobs[0].log.parent, not jobs[0].mine, self.again)

    def written(self) -> Path:
        """The file of the call that is to be done."""
        path = (self.folder / JOBS / uuid.uuid4().hex[:8] / CALL).absolute()
        given = {**arguments(self.asked, self.folder), "on": None, "slurm": []}
        name = [self.call.__module__, self.call.__name__]
        write_json(path, {"call": name, "given": given, "folder": str(Path.cwd())})
        return path

    def hear(self, job: Job) -> None:
        """What a worker came to."""
        told = outcome(job)
        if told is None:
            logger.warning("%s has ended before its end: %s", job.name, job.log)
            return
        self.failed |= told["failed"]
        for where, why in told["failed"].items():
            logger.warning("%s: %s: %s", job.name, where, why)


def wait_for(jobs: Sequence[Job], wanted: Sequence[Entry], total: int) -> list[Job]:
    """Wait until all have ended, and tell of the runs meanwhile: those that ended by themselves.

    Where one has seen all runs done, others do not outlive it for long: they may be in a queue still, or try a run that failed elsewhere.
    """
    left, over = list(wanted), None
    try:
        while waiting := [job for job in jobs if not job.done()]:
            for entry in [entry for entry in left if entry.run.finished]:
                left.remove(entry)
                logger.info("%s is finished: %d of %d", entry.run.path, total - len(left), total)
            if over is None and any((outcome(job) or {}).get("over") for job in jobs):
                over = time.monotonic()
            if over is not None and time.monotonic() - over > PATIENCE:
                cancel(waiting)
                return [job for job in jobs if job not in waiting]
            time.sleep(workers.POLL)
    except (KeyboardInterrupt, Interrupted):
        cancel(jobs)
        raise
    return list(jobs)


def cancel(jobs: Sequence[Job]) -> None:
    """Ask those that have not ended for their end."""
    for job in jobs:
        if not job.done():
            job.cancel()


def outcome(job: Job) -> dict[str, Any] | None:
    """What a worker came to; None of one that has not come to its end."""
    path = job.log.parent / f"{job.number}.json"
    return read_json(path) if path.exists() else None


def work(call: Path, number: int, threads: int | None = None) -> None:
    """What worker ``number`` does, on whatever machine; threads: its part of the cores, where the engine does not see to that."""
    if not call.is_file():
        raise RunError(
            "is not on this machine, and so the folder of the runs is not",
            where=str(call),
            hint="a --folder that all machines share",
        )
    told: Mapping[str, Any] = read_json(call)
    os.chdir(told["folder"])
    if threads is not None:
        torch.set_num_threads(threads)
    module, name = told["call"]
    try:
        found = getattr(importlib.import_module(module), name)(**told["given"])
        came_to = {"failed": {lost.run: lost.why for lost in found.failed}, "over": True}
    except Interrupted:
        raise
    except LorakitError as error:
        logger.error("%s", error)
        came_to = {"failed": {problem.where: problem.what for problem in error.problems}, "over": False}
    write_json(call.with_name(f"{number}.json"), came_to)
