"""How a large data file trains: time to the first step, first and second time, and the memory it takes, beside a small file.

    python scripts/million_rows.py --out results/million        # 1,000,000 rows against 10,000: a few minutes on 2 cores

The rows are made of the bundled film reviews: the first half of one sentence and the second half of another. Each start is a process
of its own, with a cache that is empty the first time, and takes a few steps of LoRA on the bundled encoder. Memory is that of the whole
process, and the part of it that is not mapped files (which the system takes back when it needs room): both at their peak. Writes
OUT/million.json; the files themselves are temporary.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from lorakit.artifacts.run import Run, environment
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task
from lorakit.training.loop import step
from lorakit.workflow.prepare import prepare
from lorakit.workflow.setup import assemble

STEPS = 20
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--one", nargs=2, metavar=("FILE", "STARTED"), help="measure one start in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(start(options.one[0], float(options.one[1]))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            path = Path(folder) / f"{rows}.csv"
            write_rows(path, rows)
            for time_of in ("first", "second"):
                found = measure(path, Path(folder) / "cache", options.out)
                starts.append({"rows": rows, "file_mib": path.stat().st_size / MIB, "start": time_of} | found)
                print(told(starts[-1]), flush=True)
    report = {"starts": starts, "steps": STEPS, "environment": environment()}
    (options.out / "million.json").write_text(json.dumps(report, indent=2) + "\n")


def write_rows(path: Path, rows: int) -> None:
    """A csv of ``rows`` film reviews that nobody wrote, with the label of the second half."""
    split = load_task(TaskSection(name="rotten_tomatoes"), seed=0).splits["train"]
    halves = [(text.split(), label) for text, label in zip(split["text"], split["label"], strict=True)]
    draw = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(rows):
            (first, _), (second, label) = draw.choices(halves, k=2)
            writer.writerow([" ".join(first[: len(first) // 2] + second[len(second) // 2 :]), label])


def measure(path: Path, cache: Path, out: Path) -> dict[str, Any]:
    """One start in a process of its own."""
    command = [sys.executable, __file__, "--out", str(out), "--one", str(path), str(time.time())]
    told = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=os.environ | {"LORAKIT_CACHE_DIR": str(cache)}
    )
    result: dict[str, Any] = json.loads(told.stdout)
    return result


def start(path: str, started: float) -> dict[str, Any]:
    """Train a few steps on the file; seconds since the process was ``started``, and its memory in MiB."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    memory = Memory()
    seconds = {"imports": time.time() - started}
    settings = [
        f"task.train={path}",
        "task.text=text",
        "task.label=label",
        "task.name=custom",
        "model.name=bundled:minilm",
    ]
    loaded = load_recipe("demo", [*settings, "search.method=none", "adapter.shortcuts=[]"])
    parts = assemble(loaded)
    seconds["rows and model"] = time.time() - started
    memory.note("rows and model")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        training = prepare(loaded, parts, run, [])
        seconds["tokens"] = time.time() - started
        memory.note("tokens")
        run.start(loaded.to_yaml(), parts.task)
        training.model.train()
        for number, step_batch in zip(range(STEPS), training.loader.step_batches(0), strict=False):
            step(training, step_batch)
            seconds.setdefault("first step", time.time() - started)
            if not number:
                memory.note("first step")
    memory.note("steps")
    tokenised = sum(len(split) for name, split in parts.data.splits.items())
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "tokenised_rows_per_second": tokenised / (seconds["tokens"] - seconds["rows and model"]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_without_files_mib": memory.stop(),
        "peaks_without_files_mib": memory.notes,
    }


class Memory:
    """Watches the memory of this process that is not mapped files."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.notes: dict[str, float] = {}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while not self.done.wait(0.02):
            self.look()

    def look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
        self.peak = max(self.peak, kib / 1024)

    def note(self, name: str) -> None:
        """Keep the peak up to now."""
        self.look()
        self.notes[name] = self.peak

    def stop(self) -> float:
        """The peak in MiB."""
        self.done.set()
        self.thread.join()
        return self.peak


def told(start: dict[str, Any]) -> str:
    seconds = start["seconds"]
    return (
        f"{start['rows']:>9,} rows ({start['file_mib']:.0f} MiB), {start['start']:>6} time: first step after "
        f"{seconds['first step']:.1f} s (imports {seconds['imports']:.1f}, rows and model {seconds['rows and model']:.1f}, "
        f"tokens {seconds['tokens']:.1f}; {start['cpu_seconds']:.1f} s of CPU), {start['tokenised_rows_per_second']:,.0f} rows/s, "
        f"peak {start['peak_mib']:,.0f} MiB, {start['peak_without_files_mib']:,.0f} without mapped files"
    )


if __name__ == "__main__":
    main()
