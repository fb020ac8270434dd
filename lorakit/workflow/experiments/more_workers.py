"""More workers on this machine: processes that do the same call beside this one, each with a GPU, or its part of the cores.

They share the runs through the folder, as the same line on several machines does (`workers`). A worker's standard input is open as
long as the process that started it lives, and nothing else is on it after the call: at its end a worker stops politely, too.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit.artifacts.files import write_text
from lorakit.errors import LorakitError, UsageError
from lorakit.recipe.load import LoadedRecipe
from lorakit.tasks.token_ids import OWN_THREADS, THREADS
from lorakit.workflow.accelerator import core_count
from lorakit.workflow.experiments.request import Request

logger = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds for a polite stop, which waits for a step


@dataclass(frozen=True)
class Helper:
    """A worker that was started, and the file of what it says."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def more_workers(call: Any, asked: Request, folder: Path, runs: int) -> Iterator[None]:
    """A block beside which others do ``call``, a public function of ``asked``, until its runs are done.

    runs: how many are to be trained, and so how many workers have something to do at most. Raises UsageError for a number of workers that
    is none, and for several that are not to wait for each other.
    """
    number = min(how_many(asked), max(runs, 1))
    threads, before = torch.get_num_threads(), os.environ.get(OWN_THREADS)
    helpers: list[Helper] = []
    try:
        if number > 1:
            torch.set_num_threads(share_of_cores(number))
            os.environ[OWN_THREADS] = tokenizer_threads(number)
            helpers += [start(call, asked, folder, place, number) for place in range(1, number)]
            logger.info("%d workers: what the others say is in %s", number, helpers[0].log.with_name("worker-*.log"))
        yield
        for helper in helpers:
            if helper.process.wait():
                logger.warning("a worker ended with an error: %s", helper.log)
    finally:
        for helper in helpers:
            helper.stop()
        torch.set_num_threads(threads)
        if before is None:
            os.environ.pop(OWN_THREADS, None)
        else:
            os.environ[OWN_THREADS] = before


def how_many(asked: Request) -> int:
    """The workers to be, this process among them: one for each GPU where no number is given, else one."""
    wanted = asked.workers
    if wanted is None:
        return max(len(gpus()), 1) if asked.wait else 1
    if wanted < 1:
        raise UsageError(f"{wanted} is not a number of workers", where="--workers", valid="a whole number from 1")
    if wanted > 1 and not asked.wait:
        raise UsageError(
            "--workers and --no-wait exclude each other", hint="workers of one machine wait for each other"
        )
    return wanted


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that there are."""
    there = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:there] if named else [str(place) for place in range(there)]


def share_of_cores(workers: int) -> int:
    """Threads of each worker."""
    return max(core_count() // workers, 1)


def tokenizer_threads(workers: int) -> str:
    """Threads of each worker's tokenizer: no more than RAYON_NUM_THREADS says, where it says something."""
    given = os.environ.get(OWN_THREADS, "")
    share = share_of_cores(workers)
    return str(min(int(given), share) if given.isdecimal() and int(given) else share)


def start(call: Any, asked: Request, folder: Path, place: int, workers: int) -> Helper:
    """Worker number ``place``, from 1, of as many: its GPU, where there are any, is that number's, in turn."""
    log = folder / f"worker-{place}.log"
    folder.mkdir(parents=True, exist_ok=True)
    own = {THREADS: str(share_of_cores(workers)), OWN_THREADS: tokenizer_threads(workers)}
    if devices := gpus():
        own["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=os.environ | own,
            start_new_session=True,  # Ctrl-C is for the process that started it, which asks it to stop
        )
    if process.stdin is None:
        raise RuntimeError("a pipe was asked for")
    process.stdin.write(json.dumps([call.__module__, call.__name__, arguments(asked, folder)]).encode() + b"\n")
    process.stdin.flush()
    return Helper(process, log)


def arguments(asked: Request, folder: Path) -> dict[str, Any]:
    """What another worker is called with; recipes that are loaded are written into ``folder``, for it to read."""

    def plain(value: Any) -> Any:
        if isinstance(value, LoadedRecipe):
            path = folder / f"worker-{value.recipe.run.name or value.name}.yaml"
            write_text(path, value.to_yaml())
            return str(path)
        if isinstance(value, Path):
            return str(value)
        return [plain(each) for each in value] if isinstance(value, (list, tuple, range)) else value

    given = {name: plain(value) for name, value in vars(asked).items() if name != "watch"}
    return given | {"workers": 1, "table": None}


def work() -> int:
    """What a worker does; its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, name, given = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=stop_at_the_end_of_input, daemon=True).start()
    try:
        getattr(importlib.import_module(module), name)(**given)
    except LorakitError as error:
        logging.error("%s", error)
        return 1
    return 0


def stop_at_the_end_of_input() -> None:
    """Stop politely once the process that started this one is gone, or asks for it."""
    while os.read(sys.stdin.fileno(), 1):  # past Python's buffer, whose lock a thread must not hold at the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(work())
