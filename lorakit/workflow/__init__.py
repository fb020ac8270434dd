"""The only place that puts the parts together: recipe -> model -> loop -> run.

One function a command: ``plan``, ``train``, ``search``, ``evaluate``, ``merge``, ``predict``, and ``load`` for a run or a merged folder.
"""

from lorakit.workflow.evaluating import EvalResult, evaluate
from lorakit.workflow.merging import MergeResult, merge
from lorakit.workflow.planning import Plan, PlannedSite, plan
from lorakit.workflow.predicting import Classifier, Prediction, load, predict
from lorakit.workflow.running import TrainResult, train
from lorakit.workflow.searching import RankedSite, SearchResult, search

__all__ = [
    "Classifier",
    "EvalResult",
    "MergeResult",
    "Plan",
    "PlannedSite",
    "Prediction",
    "RankedSite",
    "SearchResult",
    "TrainResult",
    "evaluate",
    "load",
    "merge",
    "plan",
    "predict",
    "search",
    "train",
]
