"""A run's folder: what is in it, how a new one is named, how the newest is found."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.files import append_json, read_jsonl, write_json, write_jsonl, write_text
from lorakit.artifacts.provenance import Provenance
from lorakit.artifacts.records import read_record, read_summary, read_task
from lorakit.errors import RunError, UsageError
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.tasks.task import Task

PACKAGES = (
    "lorakit",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "safetensors",
    "bitsandbytes",
    "numpy",
    "scikit-learn",
)
TASKS, FINAL = (
    "tasks",
    "final",
)  # where the runs of a sequence lie, and what they are in the end: see workflow/sequences
READOUT = "readout.json"  # why a head reads what it does: see readout_file
ENSEMBLE = "ensemble.json"  # names the runs that answer together: see workflow/ensembles.py
WEIGHTS = {"last": "adapter", "best": "best"}


@dataclass(frozen=True)
class Run:
    """Paths and records of one run's folder (DESIGN: the run folder)."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def base(self) -> Path:
        """The folder of quantised weights that are the run's own (``base_file``)."""
        return self.path / "base"

    @property
    def report(self) -> Path:
        """The folder of figures."""
        return self.path / "report"

    @property
    def lock(self) -> Path:
        """The lock of whoever trains it, beside the folder."""
        return self.path.with_name(f"{self.path.name}.lock")

    def check_own(self) -> None:
        """Refuse a run whose folders lead elsewhere, before anything is written into it or deleted there."""
        for path in (self.checkpoints, self.report, self.base, *map(self.weights, WEIGHTS)):
            if path.is_symlink():
                raise RunError(
                    "is a link: what a run writes stays in its folder", where=str(path), hint="a copy of the run"
                )

    def weights(self, which: str) -> Path:
        """The folder of the ``last`` or ``best`` adapter. UsageError for another word."""
        if which not in WEIGHTS:
            raise UsageError(f"a run has no weights called {which}", where=str(self.path), valid=" or ".join(WEIGHTS))
        return self.path / WEIGHTS[which]

    @property
    def finished(self) -> bool:
        """Whether training went to its end."""
        return (self.path / "summary.json").exists()

    def task(self) -> Task:
        """What the run learns: labels and metrics, as its data had them."""
        return read_task(self.path / "task.json")

    def summary(self) -> dict[str, Any]:
        """What the run came to; RunError before its end."""
        return read_record(self.path / "summary.json", "a run's summary")

    def checked_summary(self) -> dict[str, Any]:
        """The same; RunError too where a number of it is missing or is none."""
        return read_summary(self.path / "summary.json")

    @FaultPoint("summary")
    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record what the run came to: from here on it is finished."""
        write_json(self.path / "summary.json", summary)

    @property
    def rate(self) -> Path:
        """How the learning rate was found, where the recipe left it to be found."""
        return self.path / "rate.json"

    def timeline(self) -> list[dict[str, Any]]:
        """The search's ticks, in order."""
        return read_jsonl(self.path / "timeline.jsonl")

    def metrics(self) -> list[dict[str, Any]]:
        """Training and evaluation records, in order."""
        return read_jsonl(self.path / "metrics.jsonl")

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One more record of ``metrics`` or ``timeline``."""
        path = self.path / f"{name}.jsonl"
        with FaultPoint("half a record", path, record):
            append_json(path, record)

    def rewind(self, step: int) -> None:
        """Forget the records made after ``step`` steps: training goes on from there and will make them again."""
        keep = {"metrics": lambda record: record["step"] <= step, "timeline": lambda record: record["step"] < step}
        for name, wanted in keep.items():
            path = self.path / f"{name}.jsonl"
            if path.exists():
                write_jsonl(path, [record for record in read_jsonl(path) if wanted(record)])

    def start(self, recipe: str, task: Task, provenance: Provenance | None = None) -> None:
        """Make the folder and write what is known before training; provenance: what the run is made of."""
        if provenance is not None:
            provenance.write(self.path)
        write_text(self.recipe, recipe)
        write_json(self.path / "task.json", asdict(task))
        write_json(self.path / "environment.json", environment())


def new_run(folder: Path, name: str, seed: int) -> Run:
    """A fresh folder ``<name>-<seed>``, or ``<name>-<seed>-2`` and so on where that is taken."""
    stem = f"{name}-{seed}"
    number = 1
    while (path := folder / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return Run(path)


def unfinished_run(folder: Path, name: str, seed: int) -> Run:
    """The newest run of this name and seed that was not trained to its end."""
    runs = [run for run in named_runs(folder, name, seed) if not run.finished]
    if not runs:
        raise UsageError(
            f"there is no unfinished run of {name} with seed {seed} to resume",
            where=str(folder),
            hint="name its folder with --run-dir, or leave --resume out to start anew",
        )
    return runs[-1]


def named_runs(folder: Path, name: str, seed: int) -> list[Run]:
    """The runs of this name and seed, in the order in which they were begun."""
    named = re.compile(rf"{re.escape(name)}-{seed}(-\d+)?")
    return [run for run in all_runs(folder) if named.fullmatch(run.path.name)]


def newest_run(folder: Path, task: str | None) -> Run:
    """The newest finished run in ``folder``, of ``task`` where one is named."""
    runs = [run for run in all_runs(folder) if run.finished and task in (None, run.summary().get("task"))]
    if not runs:
        raise UsageError(
            f"there is no finished run{f' of {task}' if task else ''}",
            where=str(folder),
            hint="lorakit train, or name a run",
        )
    return runs[-1]


def open_run(path: str | Path) -> Run:
    """The run in ``path``. UsageError where there is none."""
    path = Path(path)
    if not (path / "recipe.yaml").is_file() and (path / ENSEMBLE).is_file():
        what = "is an ensemble of runs, and not one run"
        valid = "one of its runs; or lorakit predict, and lorakit eval with --file, which take it whole"
        raise UsageError(what, where=str(path), valid=valid, hint=f"its {ENSEMBLE} names them")
    if not (path / "recipe.yaml").is_file() and (path / SEQUENCE_FILE).is_file():
        what, valid = (
            "is a sequence of tasks, and not one run",
            f"a run in {path / FINAL} or {path / TASKS}; lorakit eval and report take it whole",
        )
        raise UsageError(what, where=str(path), valid=valid)
    if not (path / "recipe.yaml").is_file():
        raise UsageError(
            "is not a run folder: it has no recipe.yaml", where=str(path), hint="a folder that lorakit train made"
        )
    return Run(path)


def all_runs(folder: Path) -> list[Run]:
    """Every run in ``folder``, in the order in which they were begun."""
    found = sorted(folder.glob("*/recipe.yaml"), key=lambda path: path.stat().st_mtime_ns)
    return [Run(path.parent) for path in found]


def environment() -> dict[str, Any]:
    """Versions, platform and the state of the working copy lorakit runs from."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "command": sys.argv,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "git": git_state(Path(__file__).parent),
    }


@cache
def versions() -> dict[str, str]:
    """Package -> its version; they are read once, for they do not change under a running process."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether the working copy differs from it; None outside a repository, and in one without a commit."""
    try:
        told = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", told, re.MULTILINE)
    changed = any(not line.startswith("#") for line in told.splitlines())
    return None if commit is None else {"commit": commit[1], "changed": changed}


def claim(path: Path, hint: str = "--resume to go on with it, or another --run-dir") -> Run:
    """A folder the person named for a new run: it must not hold one yet, nor anything else."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("exists already", where=str(path), hint=hint)
    return Run(path)
