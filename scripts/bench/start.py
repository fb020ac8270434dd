"""How long a person waits: for `lorakit --help`, for `lorakit plan demo`, and for the first training step of `lorakit train demo`.

    python scripts/bench/start.py --out results/bench                # five repeats, in turn

Whole commands, from their start to their end; for the training, to the first record of its first step, whereupon it is killed. Each
runs once untimed, so that the disk's cache is warm. The floor is what no command that loads this model can go below: importing torch
and transformers, and loading the bundled encoder with its tokenizer. Printed and saved (OUT/start.json): medians of wall seconds,
and of processor seconds (user and system), which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from commands import LORAKIT, Took, middle, run

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.load import load_recipe

FLOOR = """
import sys, torch
from transformers import AutoModelForSequenceClassification as Model, AutoTokenizer
Model.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
"""
TARGETS = {"help": 0.5, "plan": 3.0, "first step": 15.0}  # wall seconds on two free cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = find_checkpoint(load_recipe("demo").recipe.model, offline=True)
    taken: dict[str, list[Took]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + options.repeats):
            for name, command, until in commands(model, Path(folder) / str(number)):
                took = run(command, Path(folder) / "words.txt", until)
                if number:
                    taken.setdefault(name, []).append(took)
    report = {
        "commands": {
            name: {"median": asdict(middle(all_)), "all": list(map(asdict, all_))} for name, all_ in taken.items()
        },
        "targets": TARGETS,
        "environment": environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "start.json", report)
    print(f"{'':12} {'wall':>8} {'processor':>10} {'target':>8}")
    for name, all_ in taken.items():
        target = f"{TARGETS[name]:6.1f} s" if name in TARGETS else ""
        print(f"{name:12} {middle(all_).wall:6.2f} s {middle(all_).processor:8.2f} s {target:>8}")


def commands(model: Path, runs: Path) -> list[tuple[str, list[str], Callable[[], bool] | None]]:
    """Name, command, and what to wait for where that is not its end."""
    train = [*LORAKIT, "train", "demo", "run.log_every=1", f"run.folder={runs}"]
    return [
        ("floor", [sys.executable, "-c", FLOOR, str(model)], None),
        ("help", [*LORAKIT, "--help"], None),
        ("plan", [*LORAKIT, "plan", "demo"], None),
        ("first step", train, (runs / "demo-0" / "metrics.jsonl").exists),
    ]


if __name__ == "__main__":
    main()
