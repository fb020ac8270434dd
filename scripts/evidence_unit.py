"""One training of the evidence, a unit: its recipe, and the logits of test rows that it ends with."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from evidence_data import parse, rows_of

from lorakit.artifacts.files import write_bytes, write_text
from lorakit.artifacts.run import Run, environment
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.training.evaluation import predict_logits
from lorakit.training.hooks import Hook, TrainState
from lorakit.training.loop import train as run_loop
from lorakit.training.optim import base_rate
from lorakit.workflow.parts import encode_rows
from lorakit.workflow.prepare import prepare
from lorakit.workflow.readout import settle_readout
from lorakit.workflow.setup import assemble

TEST, HELD = "test", "held"
CURVE_ROWS = 500
BASE: dict[str, Any] = {
    "model.name": "bundled:minilm",
    "adapter.targets": ["all"],
    "training.epochs": 3,
    "training.batch_size": 32,
    "evaluation.every": 1_000,
    "evaluation.calibrate": False,
    "run.checkpoint_every": 1_000,
    "run.offline": True,
}


@dataclass(frozen=True)
class Unit:
    """A side's training on one task with one rate and seed.

    side: the keys of its recipe; task: ``subj`` or ``subj@500``; rate: a number as text, or ``auto``; scored: on test rows, or on rows
    held out of the training pool, by which rates are chosen; curve: how often test rows are scored on the way; test_rows: the number of
    test rows, all where 0.
    """

    side: tuple[tuple[str, str], ...]
    task: str
    rate: str
    seed: int
    scored: str = TEST
    curve: int = 0
    test_rows: int = 0

    @classmethod
    def of(cls, side: dict[str, Any], *rest: Any, **named: Any) -> Unit:
        """The unit of a side whose values are not text yet."""
        return cls(tuple(sorted((key, json.dumps(side[key])) for key in side)), *rest, **named)

    @property
    def values(self) -> dict[str, Any]:
        """What the recipe says, but for data, rate and seed."""
        return BASE | {key: json.loads(value) for key, value in self.side}

    def file(self, out: Path) -> Path:
        """Where its result is: sides of the same keys share it, whatever a question calls them."""
        made_of = hashlib.sha256(json.dumps(sorted(self.values.items())).encode()).hexdigest()[:10]
        scored = f"{self.scored}{self.test_rows or ''}" + f"-curve{self.curve}" * bool(self.curve)
        return out / "units" / self.task / made_of / f"{scored}-{self.rate}-{self.seed}.npz"


@dataclass(frozen=True)
class Outcome:
    """What a unit came to: logits (rows, classes) and labels (rows,); curve: {"steps": (points,), "logits": (points, CURVE_ROWS,
    classes)} of the first rows; told: seconds, steps, parameters, the rate, the state of the code.
    """

    logits: np.ndarray
    labels: np.ndarray
    curve: dict[str, np.ndarray]
    told: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """One that was written."""
        with np.load(path) as found:
            curve = {"steps": found["curve_steps"], "logits": found["curve_logits"]} if "curve_steps" in found else {}
            return cls(found["logits"], found["labels"], curve, json.loads(str(found["told"])))

    def write(self, path: Path) -> None:
        """Into one file, whole or not at all."""
        curve = {f"curve_{name}": values for name, values in self.curve.items()}
        content = BytesIO()
        told = np.array(json.dumps(self.told))
        np.savez_compressed(content, logits=self.logits, labels=self.labels, told=told, **curve)
        write_bytes(path, content.getvalue())


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        found.setdefault(section, {})[name] = value
    return found


def recipe_of(unit: Unit, folder: Path, text: Path) -> LoadedRecipe:
    """The unit's recipe, with its rows written into ``folder``; test rows are what it calls validation rows, and chooses nothing by."""
    task, number = parse(unit.task)
    rows = rows_of(task, text)
    train, held = rows.drawn(number, unit.seed)
    test = rows.test.sample(unit.test_rows, random_state=0) if 0 < unit.test_rows < len(rows.test) else rows.test
    files = {"train": train, "validation": test if unit.scored == TEST else held}
    for part, table in files.items():
        table.to_parquet(folder / f"{part}.parquet")
    values = unit.values | {f"task.{part}": str(folder / f"{part}.parquet") for part in files}
    values |= {"task.name": "custom", "task.text": "text", "task.label": "label", "task.metric": "accuracy"}
    values["task.labels"] = sorted(set(rows.train["label"]))  # all of them, in the rarest draw too
    if "text_pair" in train:
        values["task.text_pair"] = "text_pair"
    if unit.rate != "usual":
        values["training.lr"] = unit.rate if unit.rate == "auto" else float(unit.rate)
    path = folder / "recipe.yaml"
    write_text(path, yaml.safe_dump(nested(values | {"run.seed": unit.seed}), sort_keys=False))
    return load_recipe(path)


class Curve(Hook):
    """Scores the first CURVE_ROWS test rows at even distances of a training."""

    def __init__(self, points: int):
        self.points = points
        self.look: Callable[[], np.ndarray] | None = None
        self.steps: list[int] = []
        self.logits: list[np.ndarray] = []

    def after_step(self, state: TrainState) -> None:
        """One point where it is time."""
        due = {round(state.total_steps * place / self.points) for place in range(1, self.points + 1)}
        if self.look and state.step in due:
            self.steps.append(state.step)
            self.logits.append(self.look())

    def found(self) -> dict[str, np.ndarray]:
        """Steps (points,) and logits (points, rows, classes)."""
        return {"steps": np.array(self.steps), "logits": np.stack(self.logits)} if self.steps else {}


def run(unit: Unit, text: Path) -> Outcome:
    """Train it, in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="unit-"))
    try:
        (folder / "run").mkdir()
        loaded = recipe_of(unit, folder, text)
        parts = assemble(loaded)
        curve = Curve(unit.curve)
        started = time.perf_counter()
        loaded, parts, readout = settle_readout(loaded, parts)
        training = prepare(loaded, parts, Run(folder / "run"), [curve] if unit.curve else [])
        prepared = time.perf_counter() - started
        rows = parts.data.splits[parts.task.validation[0]]
        if unit.curve:
            some = encode_rows(rows.select(range(min(CURVE_ROWS, len(rows)))), parts.backbone, parts.cut)
            curve.look = partial(predict_logits, training.adapted.model, some, training.objective, 64)
        run_loop(training)
        told = {
            "side": unit.values,
            "task": unit.task,
            "rate": unit.rate,
            "seed": unit.seed,
            "lr": training.state.rate["lr"] if training.state.rate else base_rate(training.recipe),
            "found_rate": training.state.rate,
            "readout": readout.chosen if readout else parts.recipe.model.readout,
            "steps": training.state.step,
            "seconds": training.state.seconds,
            "prepared": prepared,  # adapters, a fitted head, states of frozen layers
            "adapter_parameters": training.adapted.adapter_parameters(),
            "head_parameters": training.adapted.head_parameters(),
            "losses": [record["loss"] for record in training.run.metrics() if "loss" in record],
            "train_rows": len(parts.data.splits["train"]),
            "environment": environment(),
        }
        logits = training.outputs[parts.task.validation[0]]
        return Outcome(logits, np.asarray(rows["label"]), curve.found(), told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
