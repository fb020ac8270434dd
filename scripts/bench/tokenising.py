"""Rows tokenised per second: lorakit's way beside transformers' own call, on one core and on all, and beside `datasets.map` in processes.

    python scripts/bench/tokenising.py shared/glue/sst2/train.parquet --column sentence --out results/bench

The rows are the column's, over again until there are enough, tokenised for the bundled encoder. Each repeat runs all sides, in an order
that turns. Beside the time that passes, the seconds of CPU of all threads and of the main one are told: what the main thread does,
nobody does beside it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from datasets import Dataset, disable_progress_bars
from measuring import ratio, turned
from transformers import AutoTokenizer

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.long_texts import Cut
from lorakit.tasks.tokens import CHUNK, flat, tokenised
from lorakit.workflow.accelerator import core_count

LENGTH = 128
PARALLEL = "TOKENIZERS_PARALLELISM"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    texts = parquet.read_table(options.file, columns=[options.column])[options.column].to_pylist()
    rows = Dataset.from_dict({"text": list(islice(cycle(texts), options.rows))})
    tokenizer = AutoTokenizer.from_pretrained(find_checkpoint(ModelSection(name="bundled:minilm"), offline=True))
    disable_progress_bars()
    sides: dict[str, Callable[[], int]] = {
        "lorakit": lambda: ours(rows, tokenizer),
        "lorakit, one core": lambda: alone(lambda: ours(rows, tokenizer)),
        "call": lambda: call(rows, tokenizer),
        "call, one core": lambda: alone(lambda: call(rows, tokenizer)),
        "datasets.map": lambda: alone(lambda: mapped(rows, tokenizer)),
    }
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(options.repeats):
        for side in turned(list(sides), number):
            measured[side].append(spent(sides[side]))
    if len({run["tokens"] for runs in measured.values() for run in runs}) > 1:
        raise SystemExit("the sides do not make the same number of tokens")
    speed = {side: [options.rows / run["wall"] for run in runs] for side, runs in measured.items()}
    report = {"rows": options.rows, "cores": core_count(), "seconds": measured, "environment": environment()}
    report["beside call"] = {side: ratio(each, speed["call"]) for side, each in speed.items() if side != "call"}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "tokenising.json", report)
    for side, runs in measured.items():
        least = {name: min(run[name] for run in runs) for name in ("wall", "cpu", "main")}
        told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in least.items())
        beside = report["beside call"].get(side, {"median": 1.0})["median"]
        print(
            f"{side:20}{options.rows / least['wall']:9,.0f} rows/s at best, {beside:.2f} of call; least seconds: {told}"
        )


def spent(action: Callable[[], int]) -> dict[str, float]:
    """The seconds of ``action``: that passed, of CPU in this process, children too, and in the main thread; and its tokens."""
    wall, cpu, thread = time.perf_counter(), all_cpu(), time.thread_time()
    tokens = action()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": all_cpu() - cpu,
        "main": time.thread_time() - thread,
        "tokens": tokens,
    }


def all_cpu() -> float:
    """Seconds of CPU of this process and its children that have ended."""
    return sum(os.times()[:4])


def alone(action: Callable[[], int]) -> int:
    """``action`` without the tokenizer's own threads."""
    os.environ[PARALLEL] = "false"
    try:
        return action()
    finally:
        del os.environ[PARALLEL]


def ours(rows: Dataset, tokenizer: Any) -> int:
    """As lorakit tokenises."""
    return sum(len(chunk.tokens) for chunk in tokenised(rows, tokenizer, Cut(LENGTH), None))


def call(rows: Dataset, tokenizer: Any) -> int:
    """By the tokenizer's call, a chunk at a time."""
    found = 0
    for start in range(0, len(rows), CHUNK):
        made = tokenizer(rows[start : start + CHUNK]["text"], truncation=True, max_length=LENGTH)
        found += len(flat(made["input_ids"], np.int32))
    return found


def mapped(rows: Dataset, tokenizer: Any) -> int:
    """By `datasets.map`, a process for each core, into its arrow files."""
    made = rows.map(
        lambda chunk: tokenizer(chunk["text"], truncation=True, max_length=LENGTH),
        batched=True,
        batch_size=CHUNK,
        num_proc=core_count(),
        load_from_cache_file=False,
        remove_columns=["text"],
    )
    return sum(len(chunk.flatten()) for chunk in made.data.column("input_ids").chunks)


if __name__ == "__main__":
    main()
