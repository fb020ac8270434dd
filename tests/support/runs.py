"""Runs of about a second: a tiny random backbone on a few dozen made-up sentences."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.models import WORDS, TinyModels

import lorakit
from lorakit.adapters.delta import deltas
from lorakit.adapters.method import methods
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.run import Run
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.training import Training
from lorakit.workflow import train as running
from lorakit.workflow.prepare import prepare
from lorakit.workflow.setup import assemble
from lorakit.workflow.train import TrainResult

TRAIN_ROWS, VALIDATION_ROWS = 45, 30
HAPPY = {"good", "fine", "warm", "great", "sun", "joke", "likes", "yes"}
CUSTOM = 'name: custom, train: "{data}/train.csv", validation: "{data}/validation.csv", test: "{data}/validation.csv", '
TASKS = {
    "one": CUSTOM + "text: sentence, label: label",
    "pair": CUSTOM + "text: first, text_pair: second, label: label",
    "number": CUSTOM + "text: sentence, label: number, regression: true",
    "several": CUSTOM + "text: sentence, label: moods, multi_label: true",
    "sst2": 'name: sst2, data: "{data}"',
}
SEARCH = ("search.method=heterolora", "search.batches=2", "adapter.shortcuts=[res1,mid]", "adapter.targets=[q,v,up]")
BASELINES = "evaluation.baselines=[majority,tfidf]"  # as recipes have them where they say nothing; a quarter of a tiny training's time
RECIPE = """
model: {{name: "{model}"}}
task: {{max_length: 32, {task}}}
adapter: {{rank: 4, dropout: 0.1}}
training: {{epochs: 2, batch_size: 8, lr: 5.0e-3}}
evaluation: {{batch_size: 16, baselines: []}}
run: {{folder: "{runs}", offline: true, log_every: 2}}
"""


def trained_alone() -> list[str]:
    """The methods that need no finished runs."""
    return [name for name, method in methods.items() if deltas.get(method.delta).over_runs != method.delta]


def settings_of(method: str) -> list[str]:
    """What an adapter method needs of a recipe for a tiny model. Skips the test where that needs a library that is not here."""
    if method == "vb_lora":  # its usual vectors are longer than the model is wide
        return ["adapter.options={length: 16, vectors: 8}"]
    if method == "loftq":
        pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
        return ["model.quantization=nf4"]
    if method == "xgblora":  # as many links as there are steps
        return ["adapter.options={links: 4}"]
    return ["model.quantization=int4"] if method in ("lq_lora", "qa_lora", "qpissa") else []


@dataclass
class Bench:
    """Makes recipes, and runs them."""

    folder: Path
    tiny: TinyModels

    def backbone(self, family: str = "bert", **config: Any) -> Path:
        """The folder of a family's tiny checkpoint, built once."""
        return self.tiny(family, **config)

    def data(self) -> Path:
        """The folder of train.csv and validation.csv, and of the same rows as GLUE's SST-2; written once."""
        data = self.folder / "data"
        if not data.exists():
            (data / "SST-2").mkdir(parents=True)
            for csv_name, tsv_name, rows in (("train", "train", TRAIN_ROWS), ("validation", "dev", VALIDATION_ROWS)):
                made = make_rows(rows, seed=rows)
                write_rows(data / f"{csv_name}.csv", made)
                numbered = [{"sentence": row["sentence"], "label": int(row["label"] == "happy")} for row in made]
                write_rows(data / "SST-2" / f"{tsv_name}.tsv", numbered, separator="\t")
            unlabelled = [{"index": row, "sentence": made[row]["sentence"]} for row in range(len(made))]
            write_rows(data / "SST-2" / "test.tsv", unlabelled, separator="\t")
        return data

    def load(self, *overrides: str, family: str = "bert", kind: str = "one", name: str = "small") -> LoadedRecipe:
        """A loaded recipe called ``name``; kind: one text, a pair, a number to predict, or several labels a row."""
        path = self.folder / "recipes" / family / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        task = TASKS[kind].format(data=in_quotes(self.data()))
        model, runs = in_quotes(self.backbone(family)), in_quotes(self.folder / "runs")
        path.write_text(RECIPE.format(model=model, task=task, runs=runs), encoding="utf-8")
        return load_recipe(path, overrides)

    def train(
        self,
        *overrides: str,
        hooks: Sequence[Hook] = (),
        run_dir: Path | None = None,
        resume: bool = False,
        **options: str,
    ) -> TrainResult:
        """Train without drawing figures, which would take half of the time."""
        with mock.patch.object(running, "draw"):
            return lorakit.train(self.load(*overrides, **options), hooks=hooks, run_dir=run_dir, resume=resume)

    def prepare(self, folder: Path, *overrides: str, hooks: Sequence[Hook] = (), **options: str) -> Training:
        """What the loop gets, in evaluation mode."""
        loaded = self.load(*overrides, **options)
        training = prepare(loaded, assemble(loaded), Run(folder), hooks)
        training.model.eval()
        return training


def in_quotes(path: Path) -> str:
    """A path of any letters as it stands between YAML's double quotes."""
    return json.dumps(str(path))[1:-1]


def make_rows(number: int, *, seed: int) -> list[dict[str, Any]]:
    """Sentences of 3 to 12 words; label: whether a happy word is among them, number: how many of the words are happy, moods: what
    holds of happy, long (above 7 words) and odd (an odd number of words)."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(number):
        words = [rng.choice(WORDS) for _ in range(rng.randint(3, 12))]
        share = sum(word in HAPPY for word in words) / len(words)
        moods = {"happy": share > 0, "long": len(words) > 7, "odd": len(words) % 2 == 1}
        rows.append(
            {
                "sentence": " ".join(words),
                "first": " ".join(words[:2]),
                "second": " ".join(words[2:]),
                "label": "happy" if share else "plain",
                "number": round(share, 3),
                "moods": "; ".join(mood for mood, holds in moods.items() if holds),
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], *, separator: str = ",") -> None:
    """A table with a header line."""
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), delimiter=separator)
        table.writeheader()
        table.writerows(rows)


class StopAt(Hook):
    """Presses Ctrl-C after a step."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, state: TrainState) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


MOMENTS = (
    "on_train_begin",
    "on_tick",
    "before_forward",
    "before_optimizer_step",
    "after_step",
    "on_log",
    "on_evaluation",
    "on_epoch_end",
    "on_train_end",
)


class Recorder(Hook):
    """Writes down every call with the steps done by then; with a ``name``, checkpoints keep what it has."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.seen: list[tuple[str, int]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = [(moment, step) for moment, step in state["seen"]]


def note(moment: str) -> Callable[[Recorder, TrainState], None]:
    def call(self: Recorder, state: TrainState) -> None:
        self.seen.append((moment, state.step))

    return call


for each in MOMENTS:
    setattr(Recorder, each, note(each))


def records(run: Path) -> dict[str, Any]:
    """All that a run came to, without what cannot be the same twice: its times and its own name."""
    weights = {
        str(path.relative_to(run)): path.read_bytes()
        for folder in ("adapter", "best")
        for path in sorted((run / folder).iterdir())
    }
    summary = without(read_json(run / "summary.json"), ("seconds", "search_seconds", "rate_seconds", "run_dir"))
    timeline = [without(tick, ("seconds",)) for tick in read_jsonl(run / "timeline.jsonl")]
    return weights | {"metrics": read_jsonl(run / "metrics.jsonl"), "timeline": timeline, "summary": summary}


def without(record: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


@contextmanager
def edited_json(path: Path) -> Iterator[Any]:
    """The JSON in ``path``, written back after the block."""
    value = json.loads(path.read_text())
    yield value
    path.write_text(json.dumps(value))
