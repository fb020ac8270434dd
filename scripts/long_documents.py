"""LongLoRA trained to its end on documents longer than its decoder was pretrained for, beside full attention and beside rows cut short.

    python scripts/long_documents.py --model FOLDER --data FOLDER --out results/long-documents --length 2048

Documents are texts of one label, joined until there are so many tokens and cut there, of FOLDER's train.parquet and test.parquet (columns
text and label); no text is in two documents. Sides: `shifted`, longlora as it is; `full`, the same with the model's own attention while it
trains; `cut`, `full` on the first tokens of each document, as many as the model was pretrained for. All are evaluated with full attention.
Each side has its rate from --rates, by log-loss on documents held out from training (seed 0); then --seeds trainings on the same documents.
The table has log-loss and accuracy on the test documents, and differences to `full` with the 95 % interval of Student's t over test
documents, each its mean over seeds. Results are written as they come, to OUT/SIDE-RATE-SEED.json; a call that was stopped goes on.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidence_stats import student
from kept import kept
from readme_tables import grid
from transformers import AutoConfig, AutoTokenizer

import lorakit
from lorakit.artifacts.run import Run
from lorakit.workflow.resume import can_go_on

SIDES: dict[str, list[str]] = {"full": ["adapter.updates=[]"], "shifted": [], "cut": ["adapter.updates=[]"]}
REFERENCE, CUT = "full", "cut"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a decoder with rotary positions: a folder or a hub name")
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.parquet and test.parquet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a document")
    parser.add_argument("--rows", type=int, default=320, help="documents to train on")
    parser.add_argument("--held-out", type=int, default=60, help="documents to choose the rate by")
    parser.add_argument("--test-rows", type=int, default=150, help="documents to test on")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE for every training")
    options = parser.parse_args()
    documents = write_documents(options)
    rates = {}
    for side in SIDES:
        tries = {rate: scored(side, rate, 0, documents, options) for rate in options.rates}
        rates[side] = min(tries, key=lambda rate: tries[rate]["held_out"])
        for seed in options.seeds:
            scored(side, rates[side], seed, documents, options)
    print(table(rates, documents, options))


def write_documents(options: argparse.Namespace) -> dict[str, Path]:
    """train, held_out and test: a file each, the same for all sides and seeds."""
    files = {name: options.out / f"{name}.csv" for name in ("train", "held_out", "test")}
    options.out.mkdir(parents=True, exist_ok=True)
    joined = {split: join(options.data / f"{split}.parquet", options) for split in ("train", "test")}
    draws = random.Random(0)
    for found in joined.values():
        draws.shuffle(found)
    rows = rows_of(options)
    if len(joined["train"]) < options.rows + options.held_out or len(joined["test"]) < options.test_rows:
        there = {split: len(found) for split, found in joined.items()}
        raise SystemExit(f"{options.data} gives {there} documents of {options.length} tokens, and {rows} are wanted")
    taken = {"train": joined["train"], "held_out": joined["train"][options.rows :], "test": joined["test"]}
    for name, file in files.items():
        pd.DataFrame(taken[name][: rows[name]], columns=["text", "label"]).to_csv(file, index=False)
    return files


def join(path: Path, options: argparse.Namespace) -> list[tuple[str, str]]:
    """All documents that a file's texts come to, in the order of the file."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    found: list[tuple[str, str]] = []
    open_documents: dict[str, list[str]] = defaultdict(list)
    tokens: dict[str, int] = defaultdict(int)
    for row in pd.read_parquet(path).itertuples():
        open_documents[row.label].append(row.text)
        tokens[row.label] += len(tokenizer(row.text).input_ids)
        if tokens[row.label] >= options.length:
            found.append((" ".join(open_documents.pop(row.label)), row.label))
            tokens.pop(row.label)
    return found


def scored(
    side: str, rate: float, seed: int, documents: dict[str, Path], options: argparse.Namespace
) -> dict[str, Any]:
    """One training: the mean log-loss of what was held out, and each test document's log-loss and whether it is right."""
    length = AutoConfig.from_pretrained(options.model).max_position_embeddings if side == CUT else options.length
    place: Path = options.out / f"{side}-{rate:g}-{seed}"

    def learn() -> dict[str, Any]:
        if not Run(place).finished:
            keys = settings(side, rate, seed, length, documents, options)
            lorakit.train("demo", keys, run_dir=place, resume=can_go_on(Run(place)))
        classifier, labels = lorakit.load(place), Run(place).task().labels
        held_out, _ = log_losses(classifier, labels, documents["held_out"])
        nats, right = log_losses(classifier, labels, documents["test"])
        return {"held_out": float(np.mean(held_out)), "nats": nats, "right": right}

    asked = {"model": options.model, "length": length, "set": options.set, **rows_of(options)}
    return kept(place.with_name(f"{place.name}.json"), asked, learn)


def rows_of(options: argparse.Namespace) -> dict[str, int]:
    """How many documents each file has."""
    return {"train": options.rows, "held_out": options.held_out, "test": options.test_rows}


def settings(
    side: str, rate: float, seed: int, length: int, documents: dict[str, Path], options: argparse.Namespace
) -> list[str]:
    """The recipe's keys."""
    return [
        f"model.name={options.model}",
        *(() if side == CUT else ("model.rope_scaling=auto",)),
        "task.name=custom",
        f"task.train={documents['train']}",
        f"task.validation={documents['held_out']}",
        "task.text=text",
        "task.label=label",
        f"task.max_length={length}",
        "adapter.method=longlora",
        "adapter.targets=[q,k,v,o]",
        "adapter.shortcuts=[]",
        "search.method=none",
        "training.epochs=2",
        "training.batch_size=4",
        f"training.lr={rate}",
        "evaluation.batch_size=4",
        "evaluation.every=2",
        "evaluation.baselines=[]",
        "evaluation.calibrate=false",
        f"run.seed={seed}",
        *SIDES[side],
        *options.set,
    ]


def log_losses(classifier: Any, labels: list[str], file: Path) -> tuple[list[float], list[bool]]:
    """For each document of a file, -log p of its label in nats, and whether the label had the highest p."""
    rows = pd.read_csv(file)
    chances = np.asarray(classifier.predict_proba(rows["text"].tolist()))
    gold = rows["label"].map(labels.index).to_numpy()
    own = chances[np.arange(len(gold)), gold]
    return (-np.log(np.maximum(own, 1e-12))).tolist(), (chances.argmax(axis=1) == gold).tolist()


def table(rates: dict[str, float], documents: dict[str, Path], options: argparse.Namespace) -> str:
    """In Markdown; first, what the labels' shares alone come to."""
    shares = pd.read_csv(documents["train"])["label"].value_counts(normalize=True)
    truth = pd.read_csv(documents["test"])["label"]
    rows = [
        (
            "shares of the labels",
            "",
            f"{-np.log(truth.map(shares)).mean():.4f}",
            f"{(truth == shares.idxmax()).mean():.4f}",
        )
    ]
    found = {side: [scored(side, rates[side], seed, documents, options) for seed in options.seeds] for side in SIDES}
    by_row = {
        side: {field: np.mean([each[field] for each in results], axis=0) for field in ("nats", "right")}
        for side, results in found.items()
    }
    for side, own in by_row.items():
        cells = []
        for field in ("nats", "right"):
            cells.append(f"{own[field].mean():.4f}")
            if side != REFERENCE:
                cells[-1] += f" ({student(own[field] - by_row[REFERENCE][field])})"
        rows.append((side, f"{rates[side]:g}", *cells))
    return grid(("side", "rate", "log-loss, nats", "accuracy"), rows)


if __name__ == "__main__":
    main()
