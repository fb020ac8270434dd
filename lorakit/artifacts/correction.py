"""Runs whose adapters hold what quantising the weights lost beside their own update (`lorakit quantize`): they fit these weights alone."""

from __future__ import annotations

from pathlib import Path

from lorakit.artifacts.run import Run
from lorakit.backbone.quantised import MIXED, NONE
from lorakit.errors import RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import ModelSection

RANK = "correction"
"""How a run's summary says of which rank that is."""


def corrected(run: Run) -> bool:
    """Whether the run was made by `lorakit quantize`, or was started from such a one that is still there."""
    if run.finished and RANK in run.summary():
        return True
    start = load_recipe(run.recipe).recipe.adapter.start
    earlier = None if start is None else run_of(Path(start))
    return earlier is not None and corrected(earlier)


def run_of(path: Path) -> Run | None:
    """The run that a start names, by its folder or that of its adapter; None of an adapter that lies by itself."""
    above = Run(path.parent)
    run = above if path in (above.weights("last"), above.weights("best")) else Run(path)
    return run if run.recipe.is_file() else None


def check_start(path: Path, model: ModelSection) -> None:
    """Refuse a start from a corrected run over other weights. RecipeError (key ``adapter.start``)."""
    run = run_of(path)
    if run is None or not corrected(run):
        return
    here, there = (quantisation(each) for each in (model, load_recipe(run.recipe).recipe.model))
    if here != there:
        what = f"the adapter of {path} holds what its weights lost in {there}, and these are in {here or model.dtype}"
        raise RecipeError(
            what, key="adapter.start", valid=f"model.quantization: {there}", hint="the run that it was quantised from"
        )


def quantisation(model: ModelSection) -> str:
    """How the weights are rounded, in words, the same where they are rounded alike; empty where they are not."""
    kinds = {
        NONE: "",
        "int4": f"int4 in groups of {model.quantization_group}",
        MIXED: f"mixed with {model.quantization_bits:g} bits",
        "nf4": "nf4 with double quantisation" if model.double_quant else "nf4",
    }
    return kinds.get(model.quantization, model.quantization)
