"""Many adapters over one backbone beside as many merged models: switching, memory, and rows per second of mixed batches.

    python scripts/bench/switching.py --out results/bench

Runs of the bundled encoder are trained for two steps (what they answer does not matter): plain LoRA, and the head. They are opened
together under as many names as are asked for, each with tensors of its own, and merged. Switching: `use`, beside loading a merged model.
Memory: what a process of its own has to itself (smaps_rollup: private) with the first adapter open and with all of them, each of which has
labelled eight sentences, and the same of merged models, copies of one in folders of their own, of which `--merged` are loaded and no more:
their weights are mapped from their files, and what no text has asked for, most of the token embeddings, is not in memory. Speed: batches
of 32 sentences that want 2, 8 and 32 adapters in turn, in one pass, beside merged models one after the other, each on its own rows; where
there are fewer of these, one answers for several names. Each repeat runs all sides, in an order that turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from measuring import SMALL, ratio, timed, turned, write_report

import lorakit
from lorakit.recipe.load import load_recipe
from lorakit.tasks.sources import load_task
from lorakit.workflow.open_adapters import Adapters
from lorakit.workflow.predict import Classifier

SEEDS, BATCH = 4, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--adapters", type=int, default=50)
    parser.add_argument("--merged", type=int, default=8, help="merged models in memory at once")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--held", choices=("adapters", "merged"), help=argparse.SUPPRESS)
    parser.add_argument("--folders", type=Path, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.held:
        print(json.dumps(held(options.held, options.folders)))
        return
    with tempfile.TemporaryDirectory() as name:
        report = measure(Path(name), options)
    write_report(options.out, "switching", report)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    runs = [
        lorakit.train(load_recipe("demo", [*SMALL, f"run.seed={seed}"]), run_dir=folder / f"run-{seed}").run_dir
        for seed in range(SEEDS)
    ]
    merged = [lorakit.merge(run).out for run in runs]
    count = options.adapters
    several = [Path(shutil.copytree(merged[0], folder / f"merged-{number}")) for number in range(options.merged)]
    memory = {
        "adapters": child("adapters", list(islice(cycle(runs), count))),
        "merged": child("merged", several),
    }
    model = lorakit.open_adapters({str(number): run for number, run in enumerate(islice(cycle(runs), count))})
    models = [lorakit.load(each) for each in several]
    task = load_task(load_recipe("demo", SMALL).recipe.task, seed=0, offline=True)
    sentences = list(islice(cycle(task.splits["train"]["text"]), BATCH * options.batches))
    return {
        "adapters": count,
        "merged models": len(models),
        "MiB": memory,
        "switching, microseconds": switching(model) * 1e6,
        "loading a merged model, seconds": timed(lambda: lorakit.load(merged[0])),
        "rows per second": {
            names: speed(model, models, sentences, names, options.repeats) for names in (2, 8, 32) if names <= count
        },
    }


def switching(model: Adapters, times: int = 2000) -> float:
    """Seconds that ``use`` takes."""
    names = list(islice(cycle(model.names), times))
    started = time.perf_counter()
    for name in names:
        model.use(name)
    return (time.perf_counter() - started) / times


def speed(
    model: Adapters, models: Sequence[Classifier], sentences: list[str], names: int, repeats: int
) -> dict[str, Any]:
    """Rows per second of each side, and ratios to merged models one after the other."""
    wanted = [str(row % names) for row in range(BATCH)]
    batches = [sentences[start : start + BATCH] for start in range(0, len(sentences), BATCH)]

    def one_by_one(answer: Callable[[int, list[str]], Any]) -> None:
        for batch in batches:
            for name in range(names):
                answer(name, batch[name::names])

    sides: dict[str, Callable[[], Any]] = {
        "one pass": lambda: [model.outputs(batch, wanted, BATCH) for batch in batches],
        "merged, in turn": lambda: one_by_one(lambda name, rows: models[name % len(models)].outputs(rows, BATCH)),
        "switched, in turn": lambda: one_by_one(lambda name, rows: model[str(name)].outputs(rows, BATCH)),
        "one merged model for all": lambda: [models[0].outputs(batch, BATCH) for batch in batches],
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(1 + repeats):
        for side in turned(list(sides), number):
            took = timed(sides[side])
            if number:
                found[side].append(len(sentences) / took)
    beside = {side: ratio(found[side], found["merged, in turn"]) for side in sides if side != "merged, in turn"}
    return {"each": found, "beside merged models in turn": beside}


def child(side: str, folders: Sequence[Path]) -> dict[str, float]:
    """What ``held`` says in a process of its own."""
    line = [sys.executable, __file__, "--out", ".", "--held", side, "--folders", *map(str, folders)]
    found: dict[str, float] = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    return found


def held(side: str, folders: Sequence[Path]) -> dict[str, float]:
    """MiB that this process has to itself with the first of the folders open, and that each further one adds."""
    task = load_task(load_recipe("demo", SMALL).recipe.task, seed=0, offline=True)
    sentences, tensors = task.splits["train"]["text"][:8], 0
    keep: list[Classifier] = []
    steps: list[float] = []
    model = lorakit.open_adapters({"0": folders[0]}) if side == "adapters" else None
    for number, path in enumerate(folders):
        if model is None:
            keep.append(lorakit.load(path))
            keep[-1].predict(sentences)
            tensors = sum(each.nbytes for each in keep[-1].model.parameters())
        else:
            name = str(number)
            (model if number == 0 else model.plug(path, name)).predict(sentences, adapter=name)
            tensors = model.bytes_of(name)
        steps.append(private())
    further = (steps[-1] - steps[0]) / (len(steps) - 1)
    return {"first": steps[0], "each further": further, "last": steps[-1], "tensors of one": tensors / 2**20}


def private() -> float:
    """MiB that no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    main()
