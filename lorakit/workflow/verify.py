"""What is written proves itself before it takes its name: read again, it gives the logits of the model it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lorakit.artifacts.provenance import NOT_SHARED, PROOF_ROWS, read_provenance
from lorakit.backbone.load import DTYPES
from lorakit.errors import LorakitError, RunError, UsageError
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Encoded
from lorakit.tasks.task import Task
from lorakit.training.evaluation import decide, predict_logits
from lorakit.training.objective import Objective
from lorakit.workflow.accelerator import put_on_device
from lorakit.workflow.parts import encode_rows, load_data
from lorakit.workflow.restore import RestoredRun

if TYPE_CHECKING:
    from datasets import Dataset

USUAL = 1e-3
"""Between logits of float32 weights."""
ROUNDINGS = 8
"""How often half precision may have rounded the largest logit on the way through the layers; 1 to 4 were seen."""


@dataclass(frozen=True)
class Proof:
    """How far the written model is from the run's.

    rows: that both predicted; largest_difference: between their logits; largest_logit: of the run's model; tolerance: what was
    allowed; flips: labels that changed.
    """

    rows: int
    largest_difference: float
    largest_logit: float
    tolerance: float
    flips: int


@dataclass(frozen=True)
class Reference:
    """What a run's model says before anything is written.

    recipe: the run's, without autocast, whose rounding says nothing of the weights; texts: real ones, used for nothing but the
    comparison; rows: the same as tokens.
    """

    recipe: Recipe
    task: Task
    texts: Dataset
    rows: Encoded
    objective: Objective
    logits: np.ndarray

    @property
    def usual_tolerance(self) -> float:
        """What logits may differ by where nobody says it: more for weights whose type rounds more."""
        model = self.recipe.model
        eps = max(torch.finfo(DTYPES[name]).eps for name in (model.dtype, model.compute_dtype or model.dtype))
        return max(USUAL, ROUNDINGS * eps * float(np.abs(self.logits).max()))

    def prove(
        self, written: nn.Module, tolerance: float | None, *, what: str, where: Path, rows: Encoded | None = None
    ) -> Proof:
        """Compare what was read again. RunError where a logit moved by more than ``tolerance``.

        what: its name in that message; rows: the texts as its own tokenizer has them.
        """
        tolerance = self.usual_tolerance if tolerance is None else tolerance
        self.objective.accelerator.prepare_model(written)
        logits = predict_logits(written, rows or self.rows, self.objective, self.recipe.evaluation.batch_size)
        difference = float(np.abs(logits - self.logits).max())
        before, after = decide(self.task, self.logits), decide(self.task, logits)
        flips = 0 if self.task.regression else int((after != before).sum())
        if not difference <= tolerance:
            raise RunError(
                f"the {what} is another model: its logits differ by {difference:.3g} from the run's ({flips} labels change)",
                where=str(where),
                valid=f"at most {tolerance:.3g}",
                hint="--tolerance if that is good enough for you"
                + ("; float32 weights are the most exact" if self.recipe.model.dtype != "float32" else ""),
            )
        return Proof(len(self.rows), difference, float(np.abs(self.logits).max()), tolerance, flips)


def predict_reference(restored: RestoredRun) -> Reference:
    """The run's logits on the validation texts that it keeps."""
    parts, model = restored.parts, restored.adapted.model
    recipe = replace(parts.recipe, training=replace(parts.recipe.training, precision="fp32"))
    texts = proof_rows(restored)
    rows = encode_rows(texts, parts.backbone, parts.cut)
    objective = put_on_device(model, recipe, regression=parts.task.regression)
    logits = predict_logits(model, rows, objective, recipe.evaluation.batch_size)
    return Reference(recipe, parts.task, texts, rows, objective, logits)


def proof_rows(restored: RestoredRun) -> Dataset:
    """Texts of the run's validation split, which lie in its folder; a run of an older version has to read its files, and one that came
    without its rows too. RunError where that one's are not here."""
    from datasets import Dataset

    provenance = read_provenance(restored.run.path)
    if provenance is not None and provenance.proof:
        rows = provenance.proof
        return Dataset.from_list([row | {"idx": number} for number, row in enumerate(rows)])
    try:
        with restored.loaded.locating_errors():
            data = load_data(restored.loaded.recipe)
    except LorakitError as error:
        if provenance is None or not provenance.told.get(NOT_SHARED):
            raise
        raise RunError(
            "the run was passed on without its rows, on which what is written proves itself",
            where=str(restored.run.path),
            hint=f"lorakit.load reads it as it is; whoever has the rows can write it. Of these: {error.problems[0].what}",
        ) from error
    split = data.splits[data.task.validation[0]]
    return split.select(range(min(PROOF_ROWS, len(split))))


def check_target(
    target: Path, *, force: bool = False, kind: str = "", is_kind: Callable[[Path], bool] = lambda path: False
) -> None:
    """UsageError where ``target`` exists, but with ``force`` where it is an earlier one of its kind, which may be replaced."""
    if not target.exists():
        return
    if not force:
        replace = ", or --force to replace it" if kind else ""
        raise UsageError("exists already", where=str(target), hint=f"--out for another place{replace}")
    if not is_kind(target):
        raise UsageError(f"is not {kind}, and is not replaced", where=str(target), hint="--out for another place")
