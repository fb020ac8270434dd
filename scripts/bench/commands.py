"""Commands as a shell runs them: their wall and processor seconds."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LORAKIT = [sys.executable, "-m", "lorakit"]


@dataclass(frozen=True)
class Took:
    """wall: from the start to the end, or to what was waited for; processor: user and system seconds of the whole process."""

    wall: float
    processor: float


def run(command: Sequence[str], log: Path, until: Callable[[], bool] | None = None) -> Took:
    """Run a command, its words into the file ``log``, and wait for its end, or for ``until()``, whereupon it is killed.

    Raises RuntimeError with the end of ``log`` where the command fails, or ends before ``until()``.
    """
    with log.open("w") as words:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT)
        while until and not until() and process.poll() is None:
            time.sleep(0.01)
        if until:
            wall = time.perf_counter() - begun
            met = until()
            process.kill()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if not until:
            wall, met = time.perf_counter() - begun, process.returncode == 0
    if not met:
        raise RuntimeError(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    return Took(wall, used.ru_utime + used.ru_stime)


def middle(values: Sequence[Took]) -> Took:
    """The medians of both."""
    return Took(statistics.median(each.wall for each in values), statistics.median(each.processor for each in values))
