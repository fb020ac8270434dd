"""A few hundred labelled rows of one's own, one command: beside simple classifiers and SetFit on the same rows, scored on a test file.

    python scripts/own_data.py --data shared/agnews shared/cr --out results/own_data [--setfit other/.venv/bin/python]

Each DATA is a folder with train.parquet and test.parquet, columns text and label. For each seed, ROWS rows are drawn from the training
part and written to a csv. `lorakit train FILE` and `lorakit predict RUN test.csv --out ...` are run as a person would, with everything
by default, each in a process of its own; the file of answers is scored by scikit-learn. The other sides see the rows that the run
trains on (its held-out tenth is left out for all): the most common class, TF-IDF and frozen features with logistic regression, and
SetFit with its usual settings on the same encoder, from an environment that has it, stopped after as many seconds of training as
`lorakit train` took in all. The test rows are seen once, at the end. Results are written as they come; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.run import environment
from lorakit.backbone.readout import MEAN
from lorakit.recipe.load import load_recipe
from lorakit.tasks.baselines import frozen, majority, tfidf
from lorakit.workflow.frozen_features import read_features
from lorakit.workflow.setup import assemble

PEER = Path(__file__).with_name("setfit_peer.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-rows", type=int, help="of the test part, drawn once for all seeds; all by default")
    parser.add_argument("--setfit", type=Path, help="a Python that has setfit")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for folder in options.data:
            file = options.out / f"{folder.name}-{seed}.json"
            found = read_json(file) if file.exists() else {"environment": environment()}
            one_seed(folder, seed, options, found, file)
            print(
                folder.name,
                seed,
                {side: round(value["macro_f1"], 4) for side, value in found.items() if "macro_f1" in value},
            )
    print(table(options.data, options.seeds, options.out))


def one_seed(folder: Path, seed: int, options: argparse.Namespace, found: dict[str, Any], file: Path) -> None:
    """All sides on one draw of rows, each written once it is there."""
    place = options.out / f"{folder.name}-{seed}"
    place.mkdir(exist_ok=True)
    own, test = place / "rows.csv", place / "test.csv"
    pd.read_parquet(folder / "train.parquet").sample(options.rows, random_state=seed).to_csv(own, index=False)
    rows = pd.read_parquet(folder / "test.parquet")
    rows = rows if options.test_rows is None else rows.sample(options.test_rows, random_state=0)
    rows.to_csv(test, index=False)
    if "lorakit" not in found:
        found["lorakit"] = by_command(own, test, place)
        write_json(file, found)
    if "frozen" not in found:
        found |= simple(own, test)
        write_json(file, found)
    if options.setfit and "setfit" not in found:
        trained = place / "trained.csv"
        parts = assemble(load_recipe(own, ["run.offline=true"]))
        kept = pd.read_csv(own).iloc[parts.data.splits["train"]["idx"][:]]
        kept.to_csv(trained, index=False)
        answers = place / "setfit.csv"
        seconds = found["lorakit"]["train_seconds"]
        words = [
            options.setfit,
            PEER,
            parts.backbone.folder,
            trained,
            test,
            answers,
            "--seconds",
            seconds,
            "--seed",
            seed,
        ]
        told = subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout
        found["setfit"] = scored(test, pd.read_csv(answers)["label"]) | json.loads(told.splitlines()[-1])
        write_json(file, found)


def by_command(own: Path, test: Path, place: Path) -> dict[str, Any]:
    """The two commands, their seconds from start to end, and the scores of the file of answers."""
    run, answers = place / "run", place / "labelled.csv"
    train = seconds_of("train", own, "--run-dir", run, "--offline", "-q")
    predict = seconds_of("predict", run, test, "--out", answers, "-q")
    label = pd.read_csv(answers, dtype=str)["predicted_label"]
    return scored(test, label) | {"train_seconds": train, "predict_seconds": predict}


def seconds_of(*words: object) -> float:
    """How long a command of lorakit takes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lorakit", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def simple(own: Path, test: Path) -> dict[str, Any]:
    """The baselines on the rows that the run trains on, scored on the test rows."""
    parts = assemble(load_recipe(own, ["run.offline=true", f"task.test={json.dumps(str(test))}"]))
    train, rows, task = parts.data.splits["train"], parts.data.splits["test"], parts.task
    labels, references = np.asarray(train["label"]), np.asarray(rows["label"])
    inputs, outputs = (
        read_features(parts, encoded, (MEAN,))[MEAN] for encoded in parts.encode("train", "test").values()
    )
    found = [
        majority(task, labels, references),
        tfidf(task, train, rows),
        frozen(task, inputs, labels, outputs, references, ""),
    ]
    return {baseline.name: baseline.scores for baseline in found}


def scored(test: Path, answers: Sequence[Any]) -> dict[str, float]:
    """Macro F1 and accuracy of answers in the order of the test file."""
    gold, said = pd.read_csv(test, dtype=str)["label"].tolist(), [str(answer) for answer in answers]
    return {"macro_f1": float(f1_score(gold, said, average="macro")), "accuracy": float(accuracy_score(gold, said))}


def table(folders: Sequence[Path], seeds: Sequence[int], out: Path) -> str:
    """Macro F1, mean and deviation over the seeds, in Markdown."""
    sides = ("majority", "tfidf", "frozen", "setfit", "lorakit")
    lines = [f"| rows | {' | '.join(sides)} | train s | predict s |", "|---" * (len(sides) + 3) + "|"]
    for folder in folders:
        found = [read_json(out / f"{folder.name}-{seed}.json") for seed in seeds]
        cells = [told([each[side]["macro_f1"] for each in found if side in each]) for side in sides]
        times = [told([each["lorakit"][name] for each in found], 0) for name in ("train_seconds", "predict_seconds")]
        lines.append(f"| {folder.name} | {' | '.join([*cells, *times])} |")
    return "\n".join(lines)


def told(values: Sequence[float], digits: int = 3) -> str:
    """Mean and sample deviation."""
    if not values:
        return ""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
