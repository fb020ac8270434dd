"""Four tasks one after the other on one encoder: how much is remembered, by method, order and seed.

    python scripts/continual.py --data shared/continual --out results/continual --rows 1000 --test-rows 500 --seeds 0 1 2

Every method learns the same rows in the same order as a sequence of `lorakit`; `joint` is one classifier of all rows at once, labels of
the same name merged, which has seen what no sequence sees together, and knows no order: it is learnt once a seed. With the task known it
answers among the labels of the task. Each result is written as it comes, to OUT/ORDER-SEED-METHOD.json; a call that was stopped goes on.
The table has means over orders and seeds, and differences to `sequential` at the same order and seed, with the 95 % interval of Student's
t over the seeds: the orders of a seed have the same rows, and count as one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import yaml
from evidence_stats import student
from kept import kept
from readme_tables import grid

import lorakit
from lorakit.artifacts.run import Run
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.workflow.predict import Classifier
from lorakit.workflow.resume import can_go_on
from lorakit.workflow.sequences.folder import SCORES

ORDERS = {
    "forward": ("dbpedia", "amazon", "yelp", "agnews"),
    "backward": ("agnews", "yelp", "amazon", "dbpedia"),
}
JOINT, REFERENCE = "joint", "sequential"
METHODS = ("separate", "color", REFERENCE, "replay", "o_lora", JOINT, "am_lora", "online_lora")
FIELDS = ("known", "known_forgetting", "unknown", "unknown_forgetting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder with a folder a task, train.parquet and test.parquet in each"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1000, help="training rows a task")
    parser.add_argument("--test-rows", type=int, default=500, help="test rows a task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=[*ORDERS])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--tasks", nargs="+", default=[*ORDERS["forward"]], help="those of them that are learnt")
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE for every training")
    options = parser.parse_args()
    for seed in options.seeds:
        for order in options.orders:
            for method in options.methods:
                print(order, seed, method, learnt(order, seed, method, options), flush=True)
    print(table(options))


def learnt(order: str, seed: int, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """The scores of one sequence, or of all rows at once; what is there is not learnt again."""
    order = "any" if method == JOINT else order
    tasks = [name for name in ORDERS.get(order, ORDERS["forward"]) if name in options.tasks]
    place: Path = options.out / f"{order}-{seed}-{method}"

    def learn() -> dict[str, Any]:
        rows = {name: draw(name, seed, options) for name in tasks}
        scores = joint(rows, place, seed, options) if method == JOINT else sequence(rows, place, method, seed, options)
        return {"scores": scores}

    asked = {"rows": options.rows, "test_rows": options.test_rows, "set": options.set, "tasks": tasks}
    scores: dict[str, Any] = kept(place.with_name(f"{place.name}.json"), asked, learn)["scores"]
    return scores


def draw(name: str, seed: int, options: argparse.Namespace) -> Path:
    """The folder of a task's rows: training rows drawn by the seed, test rows the same for all."""
    place: Path = options.out / "rows" / f"{name}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    for split, number, drawn in (("train", options.rows, seed), ("test", options.test_rows, 0)):
        table = pd.read_parquet(options.data / name / f"{split}.parquet")
        table.sample(min(number, len(table)), random_state=drawn).to_parquet(place / f"{split}.parquet")
    return place


def recipe_of(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What all trainings have in common."""
    return {
        "model": {"name": "bundled:minilm"},
        "task": {"name": "custom", "max_length": 128, "text": "text", "label": "label"},
        "adapter": {"method": "lora", "rank": 8, "targets": ["q", "v"]},
        "training": {"epochs": 3, "batch_size": 16, "lr": 1e-3},
        "evaluation": {"baselines": [], "every": 3, "calibrate": False},
        "run": {"seed": seed, "offline": True},
    }


def sequence(rows: dict[str, Path], place: Path, method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The matrix that the sequence comes to."""
    tasks = {
        name: {"train": str(path / "train.parquet"), "validation": str(path / "test.parquet")}
        for name, path in rows.items()
    }
    file = place.with_suffix(".yaml")
    file.write_text(
        yaml.safe_dump(
            {"sequence": tasks, "continual": {"method": method}, **recipe_of(seed, options)}, sort_keys=False
        )
    )
    begun, scored = ((place / name).exists() for name in (SEQUENCE_FILE, SCORES))
    found = (
        lorakit.evaluate_sequence(place)
        if scored
        else lorakit.train_sequence(file, options.set, run_dir=place, resume=begun).scores
    )
    readings = {"known": found.known, "unknown": found.unknown}
    told = {name: read.average for name, read in readings.items()}
    told |= {f"{name}_forgetting": read.forgetting for name, read in readings.items()}
    matrices = {f"{name}_matrix": read.matrix for name, read in readings.items()}
    return {**told, "forward_transfer": found.forward, "parameters": found.parameters, **matrices}


def joint(rows: dict[str, Path], place: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One classifier of all rows: the mean accuracy over tasks, among all labels and among those of the task."""
    recipe = recipe_of(seed, options)
    recipe["task"] |= pooled(rows, place)
    train_once(recipe, place, options)
    known, unknown = accuracies(lorakit.load(place), rows)
    parameters = sum(Run(place).summary()[name] for name in ("adapter_parameters", "head_parameters"))
    return {"known": mean(known), "unknown": mean(unknown), "parameters": parameters, "by_task": [known, unknown]}


def pooled(rows: dict[str, Path], place: Path) -> dict[str, str]:
    """Files with the rows of all tasks, labels of the same name merged, beside ``place``: what a recipe's task section says of them."""
    files = {}
    for split in ("train", "test"):
        whole = pd.concat([pd.read_parquet(path / f"{split}.parquet") for path in rows.values()], ignore_index=True)
        files[split] = place.with_name(f"{place.name}-{split}.parquet")
        whole.to_parquet(files[split])
    return {"train": str(files["train"]), "validation": str(files["test"])}


def train_once(recipe: dict[str, Any], place: Path, options: argparse.Namespace) -> None:
    """Train the recipe into ``place``; a run that was stopped goes on, and a finished one stays."""
    file = place.with_name(f"{place.name}.yaml")  # a rate in the name has a point of its own
    file.write_text(yaml.safe_dump(recipe))
    if not Run(place).finished:
        lorakit.train(file, options.set, run_dir=place, resume=can_go_on(Run(place)))


def accuracies(classifier: Classifier, rows: dict[str, Path]) -> tuple[list[float], list[float]]:
    """Of each task's test rows: the accuracy among the labels of the task, and among all."""
    labels = np.array([*classifier.labels.values()])
    known, unknown = [], []
    for path in rows.values():
        test = pd.read_parquet(path / "test.parquet")
        chances = np.asarray(classifier.predict_proba(test["text"].tolist()))
        own = np.isin(labels, pd.read_parquet(path / "train.parquet")["label"].unique())
        answers = labels[np.where(own, chances, -1).argmax(axis=1)], labels[chances.argmax(axis=1)]
        for found, answer in zip((known, unknown), answers, strict=True):
            found.append(float(np.mean(answer == test["label"].to_numpy())))
    return known, unknown


def table(options: argparse.Namespace) -> str:
    """Means, and differences to the reference, in Markdown."""
    pairs = [(order, seed) for seed in options.seeds for order in options.orders]
    found = {method: [learnt(order, seed, method, options) for order, seed in pairs] for method in options.methods}
    rows = []
    for method, scores in found.items():
        cells = []
        for field in FIELDS:
            own = [each.get(field) for each in scores]
            cells.append("" if None in own else f"{mean(own):.4f}")
            if method != REFERENCE and REFERENCE in found and None not in own:
                gaps = np.subtract(own, [each[field] for each in found[REFERENCE]])
                cells[-1] += f" ({student(gaps.reshape(len(options.seeds), -1).mean(axis=1))})"
        rows.append((method, *cells, f"{scores[0]['parameters']:,}"))
    head = ("method", "task known", "forgetting", "task not known", "forgetting", "parameters")
    return grid(head, rows)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
