"""Rows per second of `lorakit predict` beside a plain transformers loop that sorts by length, on short rows, in one process.

    python scripts/bench/predict.py --out results/bench

A run of the bundled encoder is trained for two steps (what it answers does not matter) and merged, so that both sides compute the
same. The rows are sentences of the bundled reviews in a csv. Sides: `predict_file`, from the csv to a csv of answers; `stream`,
texts in memory; `plain`, texts in memory through AutoModelForSequenceClassification in batches of 32, all sorted by length;
`unsorted`, the same in the file's order; and, where the extra `onnx` is installed, `onnx` and `int8`: sorted as in `plain`, by ONNX
Runtime from what `lorakit export --to onnx --int8` writes. Each repeat runs all sides, in an order that turns. Loading is left out on
every side.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import SMALL, ratio, timed, turned
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lorakit
from lorakit.artifacts.files import write_json
from lorakit.artifacts.onnx_file import INT8, MODEL, NEEDED, OnnxModel
from lorakit.artifacts.run import environment
from lorakit.recipe.load import load_recipe
from lorakit.tasks.sources import load_task
from lorakit.workflow import predict_file as files

BATCH = 32
Compute = Callable[[Any], list[list[float]]]
"""A batch's inputs -> the probabilities of its rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seconds = measure(Path(name), options.rows, options.repeats)
    speed = {side: [options.rows / each for each in times] for side, times in seconds.items()}
    report: dict[str, Any] = {
        "rows per second": speed,
        "beside plain": {side: ratio(speed[side], speed["plain"]) for side in speed if side != "plain"},
        "environment": environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "predict.json", report)
    print(json.dumps(report["beside plain"], indent=1))
    for side, each in speed.items():
        print(f"{side:14}{sorted(each)[len(each) // 2]:8.0f} rows per second")


def measure(folder: Path, rows: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, by repeat; one more is not counted."""
    loaded = load_recipe("demo", SMALL)
    texts = load_task(load_recipe("demo", ["run.offline=true"]).recipe.task, seed=0, offline=True)
    sentences = texts.splits["train"]["text"][:rows]
    run = lorakit.train(loaded, run_dir=folder / "run").run_dir
    merged = lorakit.merge(run).out
    source = folder / "rows.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text",), *((sentence,) for sentence in sentences)])
    classifier = lorakit.load(merged)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(merged).eval(),
        AutoTokenizer.from_pretrained(merged),
    )
    model.to(classifier.model.device)
    with mock.patch.object(files, "load", return_value=classifier):
        sides: dict[str, Callable[[], Any]] = {
            "predict_file": lambda: lorakit.predict_file(merged, source, out=folder / "out.csv", batch_size=BATCH),
            "stream": lambda: list(classifier.stream(sentences, BATCH)),
            "plain": lambda: plain(model, tokenizer, sentences, classifier.cut.length, by_length=True),
            "unsorted": lambda: plain(model, tokenizer, sentences, classifier.cut.length, by_length=False),
        }
        if all(map(find_spec, NEEDED)):
            exported = lorakit.export_onnx(run, int8=True).out
            for side, file in (("onnx", MODEL), ("int8", INT8)):
                compute = by_runtime(OnnxModel(exported / file))
                sides[side] = partial(sorted_by_length, compute, tokenizer, sentences, classifier.cut.length)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(1 + repeats):
            for side in turned(list(sides), number):
                took = timed(sides[side])
                if number:
                    seconds[side].append(took)
    return seconds


@torch.inference_mode()
def plain(model: Any, tokenizer: Any, texts: list[str], longest: int, *, by_length: bool) -> list[list[float]]:
    """Every text's probabilities, as one would write it by hand."""

    def compute(inputs: Any) -> list[list[float]]:
        chances: list[list[float]] = model(**inputs.to(model.device)).logits.softmax(-1).tolist()
        return chances

    if by_length:
        return sorted_by_length(compute, tokenizer, texts, longest)
    return in_order(compute, tokenizer, texts, longest, list(range(len(texts))))


def sorted_by_length(compute: Compute, tokenizer: Any, texts: list[str], longest: int) -> list[list[float]]:
    """What ``compute`` makes of every text, the shortest first."""
    return in_order(compute, tokenizer, texts, longest, sorted(range(len(texts)), key=lambda row: len(texts[row])))


def in_order(compute: Compute, tokenizer: Any, texts: list[str], longest: int, order: list[int]) -> list[list[float]]:
    """The same in this order of rows, ``BATCH`` at a time; the answers in the order of the texts."""
    answers: list[list[float]] = [[]] * len(texts)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        inputs = tokenizer(
            [texts[row] for row in rows], truncation=True, max_length=longest, padding=True, return_tensors="pt"
        )
        for row, each in zip(rows, compute(inputs), strict=True):
            answers[row] = each
    return answers


def by_runtime(model: OnnxModel) -> Compute:
    """The probabilities of a batch by ONNX Runtime."""

    def compute(batch: Any) -> list[list[float]]:
        chances: list[list[float]] = model(**batch).logits.softmax(-1).tolist()
        return chances

    return compute


if __name__ == "__main__":
    main()
