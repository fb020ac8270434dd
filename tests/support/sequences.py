"""Sequences of three small tasks on one tiny backbone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from support.runs import Bench, in_quotes, make_rows, write_rows

import lorakit
from lorakit.training.hooks import Hook
from lorakit.workflow import train as running
from lorakit.workflow.sequences import train_sequence
from lorakit.workflow.sequences.train_sequence import SequenceResult

BASE = """
sequence:
{tasks}
continual: {{method: {method}}}
model: {{name: "{model}"}}
task: {{name: custom, max_length: 16, text: sentence, label: label}}
adapter: {{rank: 2, dropout: 0.1}}
training: {{epochs: 1, batch_size: 8, lr: 1.0e-2}}
evaluation: {{batch_size: 16, baselines: [], calibrate: false}}
run: {{folder: "{runs}", offline: true, log_every: 2, checkpoint_every: 0.5}}
"""
LABELS: dict[str, Callable[[dict[str, Any]], str]] = {
    "mood": lambda row: str(row["label"]),
    "size": lambda row: "long" if len(row["sentence"].split()) > 7 else "short",
    "tone": lambda row: "happy" if row["number"] > 0.2 else "flat" if row["number"] else "plain",
}
"""Task -> the label of a made-up row; ``tone`` shares two of its names with ``mood``."""


@dataclass
class Sequences:
    """Makes recipes of sequences, and learns them."""

    bench: Bench
    folder: Path

    def data(self, name: str) -> Path:
        """The folder of a task's rows."""
        place = self.folder / "data" / name
        if not place.exists():
            place.mkdir(parents=True)
            for split, number in (("train", 24), ("validation", 12)):
                rows = make_rows(number, seed=number + len(name))
                write_rows(
                    place / f"{split}.csv", [{"sentence": r["sentence"], "label": LABELS[name](r)} for r in rows]
                )
        return place

    def recipe(self, method: str = "sequential", tasks: Sequence[str] = tuple(LABELS), more: str = "") -> Path:
        """A file of these tasks by name."""
        tables = [
            f'  {name}: {{train: "{in_quotes(self.data(name))}/train.csv", validation: "{in_quotes(self.data(name))}/validation.csv"}}'
            for name in tasks
        ]
        path = self.folder / f"{method}-{'-'.join(tasks)}.yaml"
        model, runs = in_quotes(self.bench.backbone("bert")), in_quotes(self.folder / "runs")
        path.write_text(BASE.format(tasks="\n".join(tables), method=method, model=model, runs=runs) + more)
        return path

    def begun(self, whole: Path, copy: Path) -> Path:
        """A copy of a sequence as it was when its first task was learnt."""
        later = [path.name for path in (whole / "tasks").iterdir() if not path.name.startswith("1-")]
        shutil.copytree(whole, copy, ignore=shutil.ignore_patterns(*later, "final", "scores.json"))
        return copy

    def learn(
        self, path: Path, *overrides: str, hooks: Sequence[Hook] = (), scored: bool = True, **options: Any
    ) -> SequenceResult:
        """Without figures of the single runs; without the matrix and the runs in ``final`` where it is not scored: half of the time."""
        with mock.patch.object(running, "draw"), ExitStack() as stack:
            if not scored:
                for name in ("score_sequence", "write_final"):
                    stack.enter_context(mock.patch.object(train_sequence, name))
            return lorakit.train_sequence(path, overrides, hooks=hooks, **options)
