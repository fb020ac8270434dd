"""``--on ray``: workers are tasks of Ray, each with a GPU and its part of the CPUs of wherever Ray puts it.

The cluster is what ``ray.init()`` finds: that of RAY_ADDRESS, one that runs on this machine, else one that it starts here. A task whose
process dies is started again by Ray, three times; its run is taken over by whoever comes first, as any dead worker's is.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import RunError, UsageError
from lorakit.workflow.experiments.elsewhere import work
from lorakit.workflow.experiments.request import Request

logger = logging.getLogger(__name__)

DEATHS = 3  # how often a task is started again
REPLY = 10.0  # seconds for an answer at its address
PATIENCE = 60.0  # seconds for a polite stop, which waits for a step


class OnRay:
    """Starts workers by Ray."""

    def check(self, asked: Request) -> None:
        """Raises UsageError where Ray is not installed."""
        try:
            import ray  # noqa: F401 - is it there?
        except ImportError:
            raise UsageError(
                "needs Ray, which is not installed", where="--on ray", hint="pip install 'lorakit[ray]'"
            ) from None

    @contextmanager
    def started(self, call: Path, asked: Request, most: int) -> Iterator[Sequence[Task]]:
        """As many tasks as are asked for, one for each GPU by default. UsageError where there are none and no number is given."""
        import ray

        ours = not ray.is_initialized()
        if ours:
            check_address(os.environ.get("RAY_ADDRESS", ""))
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray's are of no common kind
                where = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "--on ray"
                raise RunError(f"Ray cannot be reached: {error}", where=where) from error
        tasks: list[Task] = []
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            number = min(how_many(asked.workers, nodes), most)
            gpus, cpus = share(nodes, number)
            remote = ray.remote(num_gpus=gpus, num_cpus=cpus, max_retries=DEATHS)(in_a_task)
            tasks += [Task(place, remote.remote(str(call), place, cpus), log(call, place)) for place in range(number)]
            yield tasks
        finally:
            if tasks:  # those that were cancelled save where they are
                ray.wait([task.reference for task in tasks], num_returns=len(tasks), timeout=PATIENCE)
            if ours:
                ray.shutdown()


def check_address(address: str) -> None:
    """Raises RunError where nobody listens at HOST:PORT, for which Ray waits minutes; any other address is Ray's to judge."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), REPLY).close()
    except OSError as error:
        hint = "without RAY_ADDRESS one is used that runs on this machine, or started"
        raise RunError(f"there is no Ray: {error}", where=f"RAY_ADDRESS={address}", hint=hint) from None


@dataclass(frozen=True)
class Task:
    """One worker. reference: Ray's to the task."""

    number: int
    reference: Any
    log: Path
    mine: bool = True

    @property
    def name(self) -> str:
        """What it is called."""
        return f"worker {self.number}"

    def done(self) -> bool:
        """Whether it has ended."""
        import ray

        return bool(ray.wait([self.reference], timeout=0)[0])

    def cancel(self) -> None:
        """As Ctrl-C does: a training saves where it is."""
        import ray

        ray.cancel(self.reference, force=False, recursive=False)


def how_many(wanted: int | None, nodes: Sequence[dict[str, float]]) -> int:
    """The workers to be: those that are wanted, else one for each GPU of the cluster."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if wanted is None and not gpus:
        cores = sum(int(node.get("CPU", 0)) for node in nodes)
        raise UsageError(
            f"this Ray has no GPU, so it is to be said how many workers share its {cores} CPUs", where="--workers"
        )
    return gpus if wanted is None else wanted


def share(nodes: Sequence[dict[str, float]], workers: int) -> tuple[int, int]:
    """GPUs and CPUs of each of the workers: a GPU where there are any, and the most CPUs with which all of them have room at once.

    Where they never have, one CPU: those that have no room wait until there is.
    """
    gpus = int(any(node.get("GPU", 0) >= 1 for node in nodes))
    for cpus in range(int(max((node.get("CPU", 0) for node in nodes), default=0)), 1, -1):
        rooms = (min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // 1 if gpus else workers) for node in nodes)
        if sum(rooms) >= workers:
            return gpus, cpus
    return gpus, 1


def in_a_task(call: str, number: int, threads: int) -> None:
    """What a task does: the work, with a file for what it says."""
    handler = logging.FileHandler(log(Path(call), number), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    try:
        work(Path(call), number, threads)
    except BaseException as error:
        logger.error("%s", error, exc_info=not isinstance(error, RunError))
        raise
    finally:
        logging.getLogger().removeHandler(handler)


def log(call: Path, number: int) -> Path:
    """The file of what worker ``number`` says."""
    return call.with_name(f"worker-{number}.log")


ENGINE = OnRay()
