"""lorakit: fine-tuning on a small parameter budget, from a YAML recipe.

>>> import lorakit
>>> classifier = lorakit.load("runs/demo-0")              # doctest: +SKIP
>>> classifier.predict(["a film of quiet wonders"])       # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lorakit.errors import LorakitError

if TYPE_CHECKING:
    from lorakit.recipe.load import load_recipe
    from lorakit.workflow.combine.combine import combine
    from lorakit.workflow.describe import describe
    from lorakit.workflow.doctor.doctor import doctor
    from lorakit.workflow.evaluate import evaluate
    from lorakit.workflow.experiments.compare import compare
    from lorakit.workflow.experiments.sweep import plan_sweep, sweep
    from lorakit.workflow.export import export
    from lorakit.workflow.glora.evolve import evolve
    from lorakit.workflow.import_peft import import_adapter
    from lorakit.workflow.merge import merge
    from lorakit.workflow.plan import plan
    from lorakit.workflow.predict import load, predict
    from lorakit.workflow.predict_file import predict_file
    from lorakit.workflow.report import report
    from lorakit.workflow.search import search
    from lorakit.workflow.train import train

HOMES = {
    "combine": "lorakit.workflow.combine.combine",
    "compare": "lorakit.workflow.experiments.compare",
    "describe": "lorakit.workflow.describe",
    "doctor": "lorakit.workflow.doctor.doctor",
    "evaluate": "lorakit.workflow.evaluate",
    "evolve": "lorakit.workflow.glora.evolve",
    "export": "lorakit.workflow.export",
    "import_adapter": "lorakit.workflow.import_peft",
    "load": "lorakit.workflow.predict",
    "load_recipe": "lorakit.recipe.load",
    "merge": "lorakit.workflow.merge",
    "plan": "lorakit.workflow.plan",
    "plan_sweep": "lorakit.workflow.experiments.sweep",
    "predict": "lorakit.workflow.predict",
    "predict_file": "lorakit.workflow.predict_file",
    "report": "lorakit.workflow.report",
    "search": "lorakit.workflow.search",
    "sweep": "lorakit.workflow.experiments.sweep",
    "train": "lorakit.workflow.train",
}
"""Public function -> the module it lives in, imported at its first use: ``import lorakit`` itself stays quick."""

__all__ = [
    "LorakitError",
    "combine",
    "compare",
    "describe",
    "doctor",
    "evaluate",
    "evolve",
    "export",
    "import_adapter",
    "load",
    "load_recipe",
    "merge",
    "plan",
    "plan_sweep",
    "predict",
    "predict_file",
    "report",
    "search",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """A public function, from its module."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'lorakit' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What there is, for completion and ``help``."""
    return __all__
