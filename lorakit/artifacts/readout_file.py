"""readout.json of a run whose recipe said ``model.readout: auto``: what was chosen, and why. Its recipe.yaml has the choice itself.

{"chosen": "mean", "losses": {"own": 0.41, "mean": 0.33}, "measure": "log-loss", "rows": 500, "note": ""}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorakit.artifacts.files import write_json
from lorakit.artifacts.records import number, read_record, reading
from lorakit.artifacts.run import READOUT, Run
from lorakit.backbone.readout import OWN, READOUTS

FILE = READOUT


@dataclass(frozen=True)
class ReadoutChoice:
    """A read-out that was chosen.

    Attributes:
        chosen: ``own``, ``cls``, ``mean`` or ``layers``.
        losses: of each candidate, over folds of the rows; empty where nothing was compared.
        measure: what they are: ``log-loss``, or ``squared error`` for numbers.
        rows: training rows that were looked at.
        note: why nothing was compared.
    """

    chosen: str
    losses: dict[str, float]
    measure: str
    rows: int
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.chosen}: {self.note}"
        ranked = sorted(self.losses.items(), key=lambda entry: entry[1])
        table = ", ".join(f"{name} {loss:.4f}" for name, loss in ranked)
        return f"{self.chosen}, by {self.measure} over folds of {self.rows:,} training rows: {table}"


def write_choice(run: Run, choice: ReadoutChoice | None) -> None:
    """Write it into the run's folder, where there is one."""
    if choice is not None:
        write_json(run.path / FILE, asdict(choice))


def read_choice(run: Run) -> ReadoutChoice | None:
    """That of a run; None where nothing was chosen. RunError where it is broken."""
    path = run.path / FILE
    if not path.is_file():
        return None
    return as_choice(read_record(path, "the choice of a read-out"), path)


def as_choice(record: Mapping[str, Any], path: Any) -> ReadoutChoice:
    """From what was written. RunError, about the file ``path``, where it is broken."""
    with reading(path, "the choice of a read-out"):
        losses = {str(name): float(number(loss, name)) for name, loss in dict(record["losses"]).items()}
        if not {record["chosen"], *losses} <= {OWN, *READOUTS}:
            raise ValueError(f"there is no read-out {record['chosen']!r}")
        rows = int(number(record["rows"], "rows", low=0, whole=True))
        return ReadoutChoice(record["chosen"], losses, str(record["measure"]), rows, str(record["note"]))
