"""How far a run has come: trained to its end, stopped at a step, in the hands of a process right now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorakit.artifacts.lock import holder
from lorakit.artifacts.provenance import DATA, PROOF, ROWS
from lorakit.artifacts.records import number, read_record, reading
from lorakit.artifacts.run import READOUT, Run
from lorakit.errors import RunError

STATE = "state.json"
"""Of a checkpoint: its counters, and what else is no tensor."""
GENERATIONS = "generations.jsonl"
"""What tells the folder of an evolutionary search from a run."""
BEFORE_THE_RECIPE = frozenset({"base", READOUT, DATA, ROWS, PROOF})
"""What a training writes before the recipe that makes its folder a run."""


@dataclass(frozen=True)
class Standing:
    """What became of a run.

    state: finished; interrupted: it can be resumed where it has a step; running: a process has its lock; search: an evolutionary
    search's folder; untrained: an adapter that was put together and never trained. step and steps: of the newest checkpoint that can be
    read, and of the whole training; None without one.
    """

    state: Literal["finished", "interrupted", "running", "search", "untrained"]
    step: int | None = None
    steps: int | None = None

    def __str__(self) -> str:
        at = "" if self.step is None else f"step {self.step:,} of {self.steps:,}"
        if self.state == "interrupted":
            return f"interrupted, resumable at {at}" if at else "interrupted, without a checkpoint"
        return f"{self.state}, checkpoint at {at}" if self.state == "running" and at else self.state


def killed_at_its_start(run: Run) -> bool:
    """Whether the folder holds nothing but what a training writes before its recipe, and no process is at that."""
    if not run.path.is_dir() or run.path.is_symlink() or holder(run.lock) is not None:
        return False
    names = {path.name for path in run.path.iterdir()}
    return bool(names) and all(
        name in BEFORE_THE_RECIPE or (name.startswith(".") and name.endswith(".partial")) for name in names
    )


def standing(run: Run) -> Standing:
    """What became of ``run``; nothing of its folder is changed."""
    if run.finished:
        return Standing("finished")
    if (run.path / GENERATIONS).exists():
        return Standing("search")
    step, steps = newest_step(run)
    if holder(run.lock) is not None:
        return Standing("running", step, steps)
    if step is None and run.weights("last").is_dir() and not (run.path / "metrics.jsonl").exists():
        return Standing("untrained")
    return Standing("interrupted", step, steps)


def newest_step(run: Run) -> tuple[int | None, int | None]:
    """The step of the newest checkpoint whose state can be read, and the steps of the whole training."""
    for path in reversed(all_checkpoints(run.checkpoints)):
        try:
            record = read_record(path / STATE, "the state of a training")
            with reading(path / STATE, "the state of a training"):
                train = record["train"]
                step, steps = (int(number(train[key], key, low=0, whole=True)) for key in ("step", "total_steps"))
            return step, steps
        except RunError:
            continue
    return None, None


def all_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    found = [path for path in root.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
