"""From no knowledge to a tuned result: one `lorakit train FILE` beside a user of PEFT who sweeps four rates, seconds and test log-loss.

    python scripts/time_to_tuned.py --text shared/text --out results/tuned --tasks subj@1000 trec@1000 cr@1000 --seeds 0 1 2

Both sides have the same rows, the same number of epochs and rows a step, LoRA of rank 8 on every projection. lorakit is run as a command
with nothing said but what --set adds; the other side is `bench/peft_sweep.py`, one process for four rates. Seconds are from the start of
the command to its end, scoring of test rows left out. The log-loss is that after a temperature of the other half of the test rows. Rows
and test rows are those of `evidence.py`. Each result is written as it comes, to OUT/TASK-SEED.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from evidence_data import parse, rows_of
from evidence_stats import right, tempered_losses
from readme_tables import grid

from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.run import Run, environment
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.load import load_recipe

PEER = Path(__file__).parent / "bench" / "peft_sweep.py"
TEST_ROWS = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["subj@1000", "trec@1000", "cr@1000"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE for lorakit")
    options = parser.parse_args()
    for seed in options.seeds:
        for task in options.tasks:
            file = options.out / f"{task}-{seed}.json"
            found = read_json(file) if file.exists() else {"environment": environment(), "set": options.set}
            both(task, seed, options, found, file)
            print(task, seed, {side: found[side] for side in ("lorakit", "peft")}, flush=True)
    print(table(options))


def both(task: str, seed: int, options: argparse.Namespace, found: dict[str, Any], file: Path) -> None:
    """Both sides on one draw, each written once it is there."""
    place = options.out / file.stem
    place.mkdir(parents=True, exist_ok=True)
    name, number = parse(task)
    rows = rows_of(name, options.text)
    drawn, _ = rows.drawn(number, seed)
    test = rows.test.sample(min(TEST_ROWS, len(rows.test)), random_state=0)
    drawn.to_csv(place / "rows.csv", index=False)
    test.to_csv(place / "test.csv", index=False)
    if "lorakit" not in found:
        found["lorakit"] = by_lorakit(place, test, seed, options.set)
        write_json(file, found)
    if "peft" not in found:
        found["peft"] = by_peft(place, test, seed)
        write_json(file, found)


def by_lorakit(place: Path, test: pd.DataFrame, seed: int, settings: list[str]) -> dict[str, Any]:
    """One command, then the probabilities of its answers."""
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)  # of a try that was cut short
    pair = ["task.text_pair=text_pair"] if "text_pair" in test else []
    words = ["train", place / "rows.csv", "--run-dir", run, "--seed", seed, "--offline", "-q", *pair, *settings]
    seconds = seconds_of(sys.executable, "-m", "lorakit", *words)
    answers = place / "labelled.csv"
    seconds_of(sys.executable, "-m", "lorakit", "predict", run, place / "test.csv", "--out", answers, "--force", "-q")
    said = pd.read_csv(answers)
    labels = sorted(test["label"].unique())
    chances = said[[f"p({label})" for label in labels]].to_numpy()
    summary = Run(run).summary()
    rate = (summary.get("rate") or {}).get("lr")
    return {"seconds": seconds, "rate": rate, "steps": summary["steps"], **scored(np.log(chances + 1e-12), test)}


def by_peft(place: Path, test: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The sweep, with the epochs and rows a step that lorakit had."""
    recipe = load_recipe(place / "run").recipe
    settings = {
        "model": find_checkpoint(recipe.model, offline=True),
        "train": place / "rows.csv",
        "test": place / "test.csv",
        "out": place / "peft",
        "epochs": recipe.training.epochs,
        "batch-size": recipe.training.batch_size,
        "seed": seed,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    whole = seconds_of(sys.executable, PEER, *words)
    told = read_json(place / "peft" / "told.json")
    told["whole_seconds"] = whole
    return told | scored(np.load(place / "peft" / "logits.npy"), test)


def scored(logits: np.ndarray, test: pd.DataFrame) -> dict[str, float]:
    """The test log-loss after a temperature, and the accuracy; logits (rows, labels) in the order of the labels' names."""
    labels = sorted(test["label"].unique())
    gold = np.array([labels.index(label) for label in test["label"]])
    return {"log_loss": float(tempered_losses(logits, gold).mean()), "accuracy": float(right(logits, gold).mean())}


def seconds_of(*words: object) -> float:
    """How long a command takes."""
    started = time.perf_counter()
    subprocess.run([*map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def table(options: argparse.Namespace) -> str:
    """Means over seeds, in Markdown."""
    rows = []
    for task in options.tasks:
        found = [read_json(options.out / f"{task}-{seed}.json") for seed in options.seeds]
        for side in ("peft", "lorakit"):
            own = [each[side] for each in found]
            share = mean(each["lorakit"]["seconds"] / each["peft"]["seconds"] for each in found)
            rates = ", ".join("" if each["rate"] is None else f"{each['rate']:.2g}" for each in own)
            means = (f"{mean(each[name] for each in own):.4f}" for name in ("log_loss", "accuracy"))
            rows.append((task, side, f"{mean(each['seconds'] for each in own):.0f}", rates, *means))
            if side == "lorakit":
                rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} ({share:.2f})", *rows[-1][3:])
    return grid(("rows", "side", "seconds", "rate", "log-loss", "accuracy"), rows)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
