"""Fine-tuning on a small parameter budget, from a YAML recipe.

    import lorakit

    lorakit.train("demo", ["adapter.rank=4"])              # a recipe, one key changed, becomes a run: the folder runs/demo-0
    lorakit.evaluate("runs/demo-0").scores                 # the task's own metrics, with an interval beside them
    lorakit.load("runs/demo-0").predict(["a film of quiet wonders"])

There is a function for each command of the command line, and each has its own help: ``help(lorakit.train)``.

    load_recipe        a recipe's values, checked, with all defaults
    inspect_data       what the data is like: classes, duplicates, lengths, simple classifiers
    plan               what a training would take: places, parameters, steps, memory
    train              a recipe -> a run
    train_folds        own data, each part held out once -> the mean score, and all runs as one classifier
    ensemble           several runs as one classifier
    search             decide before the training who gets the budget -> a recipe
    evolve             the same for GLoRA, by evolution on a supernet
    describe           what an adapter method is, costs and goes together with

    evaluate           the scores of a run or a checkpoint
    rank_curve         a run's scores at several ranks, against its parameters
    load, predict      label new text
    open_adapters      several runs over one backbone, switched and mixed
    serve              the same by HTTP
    predict_file       label the rows of a file
    report             a run as one page, with figures and plain words
    analyze            what runs have learnt: their updates' size and directions, how far features moved, what other tasks keep
    intrinsic_dimension  in how small a random subspace a task can be learnt
    merge              a run -> a plain Hugging Face checkpoint
    export             a run -> an adapter for PEFT
    export_onnx        a run -> a classifier for ONNX Runtime
    card               a run -> a model card of what it remembers
    push               a run -> the Hugging Face hub
    import_adapter     an adapter of PEFT -> a run
    combine            several runs -> one
    quantize           a run -> the same on weights of 4 bits, corrected
    compress           a run -> one whose adapter takes less room

    train_sequence     several tasks, learnt one after the other on one backbone
    plan_sequence      what that would train and keep
    evaluate_sequence  every task's accuracy after every task, transfer and forgetting
    report_sequence    the same as one page

    adapt              adapters on a model of yours, for a loop of your own -> Adapted
    attach_saved       a saved adapter, or a run's, on such a model again
    Search             a search during such a training

    compare            recipes and runs over several seeds, side by side
    sweep, plan_sweep  a recipe over a grid of values, ranked; and what that would train
    submit_compare     a comparison by jobs in Slurm's queue, which are not waited for
    submit_sweep       the same of a sweep
    list_runs          the runs of a folder: what each learnt, its score, whether it is finished
    doctor             is this machine, or this run, as it should be?

A recipe is the name of one that is shipped, a YAML file, the folder of a run, a file of texts and labels (a recipe is made for it),
or what ``load_recipe`` returned; texts ``KEY=VALUE``
change its keys. A run is named by its folder. What comes back is a dataclass whose fields its docstring tells, and which turns into
JSON by ``to_dict()``. All that can go wrong and be explained is a ``LorakitError``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lorakit.errors import LorakitError

if TYPE_CHECKING:
    from lorakit.recipe.load import load_recipe
    from lorakit.workflow.analysis.analyze import analyze
    from lorakit.workflow.card import card
    from lorakit.workflow.combine.combine import combine
    from lorakit.workflow.compress import compress
    from lorakit.workflow.describe import describe
    from lorakit.workflow.doctor.doctor import doctor
    from lorakit.workflow.ensembles import ensemble
    from lorakit.workflow.evaluate import evaluate
    from lorakit.workflow.experiments.compare import compare, submit_compare
    from lorakit.workflow.experiments.intrinsic import intrinsic_dimension
    from lorakit.workflow.experiments.sweep import plan_sweep, submit_sweep, sweep
    from lorakit.workflow.export import export
    from lorakit.workflow.export_onnx import export_onnx
    from lorakit.workflow.glora.evolve import evolve
    from lorakit.workflow.import_peft import import_adapter
    from lorakit.workflow.inspect_data import inspect_data
    from lorakit.workflow.list_runs import list_runs
    from lorakit.workflow.merge import merge
    from lorakit.workflow.open_adapters import open_adapters
    from lorakit.workflow.own_loop.adapt import adapt
    from lorakit.workflow.own_loop.attach_saved import attach_saved
    from lorakit.workflow.own_loop.search import Search
    from lorakit.workflow.plan import plan
    from lorakit.workflow.predict import load, predict
    from lorakit.workflow.predict_file import predict_file
    from lorakit.workflow.push import push
    from lorakit.workflow.quantize import quantize
    from lorakit.workflow.rank_curve import rank_curve
    from lorakit.workflow.report import report
    from lorakit.workflow.search import search
    from lorakit.workflow.sequences.plan_sequence import plan_sequence
    from lorakit.workflow.sequences.report_sequence import report_sequence
    from lorakit.workflow.sequences.score_sequence import evaluate_sequence
    from lorakit.workflow.sequences.train_sequence import train_sequence
    from lorakit.workflow.serve import serve
    from lorakit.workflow.train import train
    from lorakit.workflow.train_folds import train_folds

HOMES = {
    "Search": "lorakit.workflow.own_loop.search",
    "adapt": "lorakit.workflow.own_loop.adapt",
    "analyze": "lorakit.workflow.analysis.analyze",
    "attach_saved": "lorakit.workflow.own_loop.attach_saved",
    "card": "lorakit.workflow.card",
    "combine": "lorakit.workflow.combine.combine",
    "compare": "lorakit.workflow.experiments.compare",
    "compress": "lorakit.workflow.compress",
    "describe": "lorakit.workflow.describe",
    "doctor": "lorakit.workflow.doctor.doctor",
    "ensemble": "lorakit.workflow.ensembles",
    "evaluate": "lorakit.workflow.evaluate",
    "evaluate_sequence": "lorakit.workflow.sequences.score_sequence",
    "evolve": "lorakit.workflow.glora.evolve",
    "export": "lorakit.workflow.export",
    "export_onnx": "lorakit.workflow.export_onnx",
    "import_adapter": "lorakit.workflow.import_peft",
    "inspect_data": "lorakit.workflow.inspect_data",
    "intrinsic_dimension": "lorakit.workflow.experiments.intrinsic",
    "list_runs": "lorakit.workflow.list_runs",
    "load": "lorakit.workflow.predict",
    "load_recipe": "lorakit.recipe.load",
    "merge": "lorakit.workflow.merge",
    "open_adapters": "lorakit.workflow.open_adapters",
    "plan": "lorakit.workflow.plan",
    "plan_sequence": "lorakit.workflow.sequences.plan_sequence",
    "plan_sweep": "lorakit.workflow.experiments.sweep",
    "predict": "lorakit.workflow.predict",
    "predict_file": "lorakit.workflow.predict_file",
    "push": "lorakit.workflow.push",
    "quantize": "lorakit.workflow.quantize",
    "rank_curve": "lorakit.workflow.rank_curve",
    "report": "lorakit.workflow.report",
    "report_sequence": "lorakit.workflow.sequences.report_sequence",
    "search": "lorakit.workflow.search",
    "serve": "lorakit.workflow.serve",
    "submit_compare": "lorakit.workflow.experiments.compare",
    "submit_sweep": "lorakit.workflow.experiments.sweep",
    "sweep": "lorakit.workflow.experiments.sweep",
    "train": "lorakit.workflow.train",
    "train_folds": "lorakit.workflow.train_folds",
    "train_sequence": "lorakit.workflow.sequences.train_sequence",
}
"""Public function -> the module it stands in, imported at its first use: ``import lorakit`` itself stays quick."""

__all__ = [
    "LorakitError",
    "Search",
    "adapt",
    "analyze",
    "attach_saved",
    "card",
    "combine",
    "compare",
    "compress",
    "describe",
    "doctor",
    "ensemble",
    "evaluate",
    "evaluate_sequence",
    "evolve",
    "export",
    "export_onnx",
    "import_adapter",
    "inspect_data",
    "intrinsic_dimension",
    "list_runs",
    "load",
    "load_recipe",
    "merge",
    "open_adapters",
    "plan",
    "plan_sequence",
    "plan_sweep",
    "predict",
    "predict_file",
    "push",
    "quantize",
    "rank_curve",
    "report",
    "report_sequence",
    "search",
    "serve",
    "submit_compare",
    "submit_sweep",
    "sweep",
    "train",
    "train_folds",
    "train_sequence",
]


def __getattr__(name: str) -> Any:
    """A public function, from its module."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'lorakit' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What there is, for completion and ``help``."""
    return __all__
