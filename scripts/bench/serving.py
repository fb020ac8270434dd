"""`lorakit serve` under load: requests per second, how long they take, and whether one is lost when the service is told to end.

    python scripts/bench/serving.py --out results/bench

Two runs of the bundled encoder, trained for two steps (what they answer does not matter), are served by a process of its own, and asked by
this one: `--clients` threads, each with a connection that stays open, each request one film review for one of the two adapters by turns.
The same for a service whose batches hold one text, which shows what collecting requests gives. Then the load goes on while the service
gets SIGTERM: a request is lost where its connection was open and no whole answer came; who is told by `Connection: close` connects anew,
and who can no longer connect ends. Clients and service share the machine's cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from measuring import SMALL, write_report

import lorakit
from lorakit.recipe.load import load_recipe
from lorakit.tasks.sources import load_task

NAMES = ("a", "b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--stops", type=int, default=5, help="how often it is ended under load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = measure(Path(name), options)
    write_report(options.out, "serving", report)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    runs = [
        f"{name}={lorakit.train(load_recipe('demo', [*SMALL, f'run.seed={seed}']), run_dir=folder / name).run_dir}"
        for seed, name in enumerate(NAMES)
    ]
    task = load_task(load_recipe("demo", SMALL).recipe.task, seed=0, offline=True)
    texts = task.splits["train"]["text"][:200]
    report: dict[str, Any] = {}
    for side, line in (("collected", []), ("one text at a time", ["--batch-size", "1"])):
        with service([*runs, *line]) as (_, port):
            load(port, texts, 2, 1.0)  # not counted
            report[side] = {clients: load(port, texts, clients, options.seconds).told() for clients in options.clients}
    report["ended under load"] = [ended(runs, texts, max(options.clients)) for _ in range(options.stops)]
    return report


@contextmanager
def service(line: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service, and its port; RuntimeError where it does not leave with 0."""
    command = [sys.executable, "-m", "lorakit", "serve", *line, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    told = next(each for each in process.stderr if each.startswith("http://"))
    try:
        yield process, int(told.split(": POST")[0].rpartition(":")[2])
    finally:
        process.terminate()
        if process.wait(30) != 0:
            raise RuntimeError(f"the service left with {process.returncode}: {process.stderr.read()}")


@dataclass
class Came:
    """What clients got: seconds of each answer, requests that were lost, and the seconds that the load lasted."""

    seconds: float
    answers: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    anew: int = 0

    def told(self) -> dict[str, Any]:
        """Requests per second, and milliseconds of the median and of the slowest hundredth."""
        percent = statistics.quantiles(self.answers, n=100)
        return {
            "requests per second": len(self.answers) / self.seconds,
            "p50 ms": 1000 * percent[49],
            "p99 ms": 1000 * percent[98],
            "requests": len(self.answers),
            "lost": self.lost,
        }


def load(port: int, texts: Sequence[str], clients: int, seconds: float) -> Came:
    """Clients that ask for so long, each as soon as it has its answer."""
    came, until = Came(seconds), time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(port, texts[number:], number, came, until)) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came


def client(port: int, texts: Sequence[str], number: int, came: Came, until: float) -> None:
    """One that asks again and again over one connection, and connects anew where it is told to; it ends where nobody listens."""
    asked = cycle(texts)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for turn in cycle((0, 1)):
        if time.monotonic() > until:
            break
        try:
            if connection.sock is None:
                connection.connect()
                came.anew += 1
        except OSError:
            break
        body = json.dumps({"adapter": NAMES[(turn + number) % 2], "texts": [next(asked)]})
        began = time.perf_counter()
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            whole = json.loads(answer.read())
            assert answer.status == 200, whole
        except (OSError, http.client.HTTPException) as error:
            came.lost.append(repr(error))
            connection.close()
            continue
        came.answers.append(time.perf_counter() - began)
    connection.close()


def ended(runs: Sequence[str], texts: Sequence[str], clients: int) -> dict[str, Any]:
    """What a service told to end under load does: answers, those lost, and how long it took to leave."""
    with service(runs) as (process, port):
        timer = threading.Timer(2.0, process.send_signal, [signal.SIGTERM])
        timer.start()
        came = load(port, texts, clients, 20.0)
        began = time.monotonic()
        process.wait(30)
    return {"answered": len(came.answers), "lost": came.lost, "seconds after the last answer": time.monotonic() - began}


if __name__ == "__main__":
    main()
