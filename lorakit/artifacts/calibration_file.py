"""calibration.json of a run: for its last and its best weights the temperature that their logits are divided by.

    {"last": {"temperature": 1.8, "rows": 872, "before": {...}, "after": {...}, "note": ""}, "best": {...}}

A run without it, which is older or has nothing to calibrate, has the temperature 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from lorakit.artifacts.files import write_json
from lorakit.artifacts.records import number, read_record, reading
from lorakit.artifacts.run import Run
from lorakit.tasks.calibration import Calibration

FILE = "calibration.json"


def write_calibration(run: Run, found: Mapping[str, Calibration]) -> None:
    """Write that of each of the run's weights; nothing where there is none."""
    if found:
        write_json(run.path / FILE, {which: asdict(each) for which, each in found.items()})


def read_temperature(run: Run, weights: str) -> float:
    """What the logits of the run's ``last`` or ``best`` weights are divided by, 1 where none was fitted. RunError where it is broken."""
    path, what = run.path / FILE, "the calibration of a run"
    if not path.is_file():
        return 1.0
    record = read_record(path, what)
    with reading(path, what):
        return temperature_in(record.get(weights, {}))


def temperature_in(record: Mapping[str, object]) -> float:
    """The ``temperature`` of a record, 1 where it has none. ValueError where it is none that logits can be divided by."""
    found = number(record.get("temperature", 1.0), "temperature")
    if found <= 0:
        raise ValueError(f"temperature cannot be {found!r}")
    return float(found)
