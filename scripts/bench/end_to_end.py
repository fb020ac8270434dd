"""A whole training from the shell beside the usual one: `lorakit train` on MRPC against `run_glue` with PEFT in plain transformers.

    python scripts/bench/end_to_end.py --out results/bench                              # three seeds of three epochs
    python scripts/bench/end_to_end.py --out results/bench --rows 640 --epochs 1        # the short form

Both train LoRA on every linear site of the bundled encoder and a new head, with the same rank, batch, epochs, learning rate and
schedule, evaluate and write a checkpoint every epoch, and are timed as processes from their start to their end, in an order that
turns. The other side is `run_glue.py` beside this file: the Trainer with dynamic padding, rows in random order, evaluation batches of
the same size. Data are `$LORAKIT_GLUE_DIR/mrpc`. A small training of each goes before, untimed, so that caches are warm. Printed and
saved (OUT/end_to_end.json): wall and processor seconds, accuracy and F1 of both, and the ratio of wall times: the median over
seeds of paired ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from commands import LORAKIT, run

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import Run, environment
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.load import load_recipe

RANK, ALPHA, BATCH, EVAL_BATCH, LENGTH = 8, 16, 32, 64, 128
LR, WARMUP, DECAY, CLIP = 1e-3, 0.06, 0.01, 1.0
TARGET = 0.6
SIDES = ("lorakit", "run_glue")
WARM_ROWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--rows", type=int, help="training rows, all by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train: dict[str, Callable[..., dict[str, Any]]] = {"lorakit": train_lorakit, "run_glue": train_run_glue}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            train[side](Path(folder) / f"warm-{side}", 0, 1.0, WARM_ROWS)
        for number, seed in enumerate(options.seeds):
            for side in SIDES[:: -1 if number % 2 else 1]:
                made = train[side](Path(folder) / f"{side}-{seed}", seed, options.epochs, options.rows)
                runs[side].append({"seed": seed, **made})
                show(side, runs[side][-1])
                save(runs, options)
    print(f"wall time of lorakit over run_glue's: {ratio(runs):.3f}, target {TARGET}")


def train_lorakit(folder: Path, seed: int, epochs: float, rows: int | None) -> dict[str, Any]:
    """lorakit's seconds and scores."""
    settings = {
        "model.name": "bundled:minilm",
        "task.max_length": LENGTH,
        "task.max_train_rows": rows or "null",
        "adapter.targets": "all",
        "adapter.shortcuts": "[]",
        "adapter.rank": RANK,
        "adapter.alpha": ALPHA,
        "training.epochs": epochs,
        "training.batch_size": BATCH,
        "training.lr": LR,
        "training.warmup": WARMUP,
        "training.weight_decay": DECAY,
        "training.clip": CLIP,
        "evaluation.batch_size": EVAL_BATCH,
        "run.seed": seed,
    }
    values = [f"{key}={value}" for key, value in settings.items()]
    took = run([*LORAKIT, "train", "mrpc-lora", *values, "--run-dir", str(folder)], folder.with_suffix(".txt"))
    summary = Run(folder).summary()
    scored = [record["scores"] for record in Run(folder).metrics() if "scores" in record]
    parameters = summary["adapter_parameters"] + summary["head_parameters"]
    return {**asdict(took), "epochs": scored, "parameters": parameters, "steps": summary["steps"]}


def train_run_glue(folder: Path, seed: int, epochs: float, rows: int | None) -> dict[str, Any]:
    """The other side's."""
    settings = {
        "model": find_checkpoint(load_recipe("demo").recipe.model, offline=True),
        "data": Path(os.environ["LORAKIT_GLUE_DIR"]) / "mrpc",
        "out": folder,
        "rank": RANK,
        "alpha": ALPHA,
        "batch-size": BATCH,
        "eval-batch-size": EVAL_BATCH,
        "max-length": LENGTH,
        "seed": seed,
        "epochs": epochs,
        "lr": LR,
        "warmup": WARMUP,
        "weight-decay": DECAY,
        "clip": CLIP,
        **({"rows": rows} if rows else {}),
    }
    script = Path(__file__).with_name("run_glue.py")
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    took = run([sys.executable, str(script), *words], folder.with_suffix(".txt"))
    return {**asdict(took), **json.loads((folder / "scores.json").read_text())}


def ratio(runs: dict[str, list[dict[str, Any]]]) -> float:
    """The median of the ratios of wall times, seed by seed."""
    ours, theirs = (runs[side] for side in SIDES)
    return statistics.median(a["wall"] / b["wall"] for a, b in zip(ours, theirs, strict=False))


def save(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """What there is so far: a long measurement may be cut short."""
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    report = {
        "settings": settings,
        "runs": runs,
        "wall_ratio": ratio(runs) if all(runs.values()) else None,
        "target": TARGET,
        "environment": environment(),
    }
    write_json(options.out / "end_to_end.json", report)


def show(side: str, made: dict[str, Any]) -> None:
    last = made["epochs"][-1]
    print(
        f"{side:10} seed {made['seed']}  {made['wall']:7.1f} s  processor {made['processor']:7.1f} s  "
        f"accuracy {last['accuracy']:.4f}  f1 {last['f1']:.4f}  {made['parameters']:,} parameters, {made['steps']} steps",
        flush=True,
    )


if __name__ == "__main__":
    main()
