"""The only place that puts the parts together: recipe -> model -> loop -> run.

One function a command (``search`` has two: ``search`` and ``evolve``), and ``load`` for a run or a merged folder. Each is imported
at its first use, so that a command waits for no other's libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorakit.workflow.combining import CombineResult, combine
    from lorakit.workflow.comparing import Comparison, compare
    from lorakit.workflow.describing import MethodCard, describe
    from lorakit.workflow.doctoring import Diagnosis, doctor
    from lorakit.workflow.evaluating import EvalResult, evaluate
    from lorakit.workflow.evolving import EvolutionResult, FoundSite, Progress, evolve
    from lorakit.workflow.exporting import ExportResult, export
    from lorakit.workflow.importing import ImportResult, import_adapter
    from lorakit.workflow.merging import MergeResult, merge
    from lorakit.workflow.planning import Plan, PlannedSite, plan
    from lorakit.workflow.predicting import Classifier, Prediction, load, predict
    from lorakit.workflow.reporting import ReportResult, report
    from lorakit.workflow.running import TrainResult, train
    from lorakit.workflow.searching import RankedSite, SearchResult, search
    from lorakit.workflow.sweeping import PlannedPoint, Sweep, SweepPlan, plan_sweep, sweep
    from lorakit.workflow.swept import SweptPoint

HOMES = {
    "combining": ("CombineResult", "combine"),
    "comparing": ("Comparison", "compare"),
    "describing": ("MethodCard", "describe"),
    "doctoring": ("Diagnosis", "doctor"),
    "evaluating": ("EvalResult", "evaluate"),
    "evolving": ("EvolutionResult", "FoundSite", "Progress", "evolve"),
    "exporting": ("ExportResult", "export"),
    "importing": ("ImportResult", "import_adapter"),
    "merging": ("MergeResult", "merge"),
    "planning": ("Plan", "PlannedSite", "plan"),
    "predicting": ("Classifier", "Prediction", "load", "predict"),
    "reporting": ("ReportResult", "report"),
    "running": ("TrainResult", "train"),
    "searching": ("RankedSite", "SearchResult", "search"),
    "sweeping": ("PlannedPoint", "Sweep", "SweepPlan", "plan_sweep", "sweep"),
    "swept": ("SweptPoint",),
}
"""File of this folder -> what it offers here."""

__all__ = [
    "Classifier",
    "CombineResult",
    "Comparison",
    "Diagnosis",
    "EvalResult",
    "EvolutionResult",
    "ExportResult",
    "FoundSite",
    "ImportResult",
    "MergeResult",
    "MethodCard",
    "Plan",
    "PlannedPoint",
    "PlannedSite",
    "Prediction",
    "Progress",
    "RankedSite",
    "ReportResult",
    "SearchResult",
    "Sweep",
    "SweepPlan",
    "SweptPoint",
    "TrainResult",
    "combine",
    "compare",
    "describe",
    "doctor",
    "evaluate",
    "evolve",
    "export",
    "import_adapter",
    "load",
    "merge",
    "plan",
    "plan_sweep",
    "predict",
    "report",
    "search",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """What a file offers, imported when it is asked for."""
    for home, offered in HOMES.items():
        if name in offered:
            return getattr(importlib.import_module(f"lorakit.workflow.{home}"), name)
    raise AttributeError(f"module 'lorakit.workflow' has no attribute '{name}'")
