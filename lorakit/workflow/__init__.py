"""The only place that puts the parts together: recipe -> model -> loop -> run.

One function a command (``search`` has two: ``search`` and ``evolve``), and ``load`` for a run or a merged folder.
"""

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
