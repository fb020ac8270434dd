"""All that reads a folder from elsewhere, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.runs import Bench

import lorakit
from lorakit.artifacts.run import open_run
from lorakit.workflow.records import read_run
from lorakit.workflow.setup import adapt, assemble, warm_start

TEXTS = ["a good film", "no", ""]
Reader = Callable[[Path, Path], Any]
"""``read(folder, out)``: reads the folder; what comes of it is written to ``out``."""


def labelled(folder: Path, out: Path) -> None:
    for prediction in lorakit.load(folder).predict(TEXTS):
        if prediction.text.strip():
            assert prediction.probability is not None
            assert math.isfinite(prediction.probability)
        else:
            assert (prediction.label, prediction.probability) == ("", None)


def make_readers(bench: Bench, other: Path) -> dict[str, Reader]:
    def start(folder: Path, out: Path) -> None:
        loaded = bench.load("adapter.rank=2", "adapter.targets=[q]", f"adapter.start={folder}")
        warm_start(loaded.recipe, adapt(assemble(loaded)))

    return {
        "load": labelled,
        "evaluate": lambda folder, out: lorakit.evaluate(folder, task="custom"),
        "merge": lambda folder, out: lorakit.merge(folder, out=out),
        "export": lambda folder, out: lorakit.export(folder, out=out),
        "combine": lambda folder, out: lorakit.combine([folder, other], out=out),
        "start": start,
        "report": lambda folder, out: read_run(open_run(folder)),
    }
