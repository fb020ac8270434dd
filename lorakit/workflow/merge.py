"""``lorakit merge``: a run becomes a plain checkpoint, which proves itself before it appears under its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.files import folder, write_json
from lorakit.artifacts.merge import check_foldable, fold, restore_shortcuts, save_merged, shortcut_record, shortcuts_of
from lorakit.backbone.load import load_backbone
from lorakit.errors import RunError, UsageError
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.batching import Encoded, encode
from lorakit.training.evaluation import decide, predict_logits
from lorakit.training.objective import Objective
from lorakit.workflow.restore import RestoredRun, is_merged, restore_run
from lorakit.workflow.setup import Result, make_accelerator

PROOF_ROWS = 512


@dataclass(frozen=True)
class MergeResult(Result):
    """What was folded, what was kept beside, and the proof: the written checkpoint, loaded again, against the adapted model.

    rows: of the validation split that both predicted; largest_difference: between their logits; flips: labels that changed.
    """

    out: Path
    folded: int
    kept: list[str]
    rows: int
    largest_difference: float
    largest_logit: float
    tolerance: float
    flips: int
    plain: bool
    load_line: str


def merge(
    run: Path,
    *,
    out: Path | None = None,
    weights: str = "last",
    tolerance: float = 1e-3,
    force: bool = False,
    rank: int | None = None,
) -> MergeResult:
    """Fold ``run``, cut to ``rank`` where one is given, into ``out`` (``merged`` inside the run by default).

    The checkpoint is written beside its place, loaded again, and compared on real batches; it takes its name only
    where no logit moved by more than ``tolerance``. Raises RunError, and leaves nothing, where one did or where what was trained is no
    weight.
    """
    restored = restore_run(run, weights, rank=rank)
    target = out or run / "merged"
    check_target(target, force=force)
    parts, adapted = restored.parts, restored.adapted
    check_foldable(adapted)
    rows = proof_rows(restored)
    objective = Objective(make_accelerator(parts.recipe), parts.task.regression)
    objective.accelerator.prepare_model(adapted.model)
    size = parts.recipe.evaluation.batch_size
    before = predict_logits(adapted.model, rows, objective, size)
    kept = shortcuts_of(adapted)
    folded = fold(adapted)
    with folder(target) as place:
        save_merged(adapted, place, kept)
        record: dict[str, Any] = {
            "run": str(run),
            "weights": weights,
            "task": parts.task.name,
            "max_length": parts.recipe.task.max_length,
            "pair": parts.task.pair,
            "shortcuts": shortcut_record(kept, parts.recipe.adapter.shortcut_norm) if kept else None,
        }
        write_json(place / "lorakit.json", record)
        again = read_back(place, parts.recipe.model, parts.task.labels, parts.task.regression)
        objective.accelerator.prepare_model(again.model)
        after = predict_logits(again.model, rows, objective, size)
        difference = float(np.abs(after - before).max())
        flips = 0 if parts.task.regression else int((decide(parts.task, after) != decide(parts.task, before)).sum())
        if not difference <= tolerance:
            raise RunError(
                f"the merged model's logits differ by {difference:.3g} from the adapted one's ({flips} labels change)",
                where=str(target),
                valid=f"at most {tolerance:.3g}",
                hint="--tolerance if that is good enough for you; float32 weights merge most exactly",
            )
        proof = {"rows": len(rows), "largest_difference": difference, "tolerance": tolerance, "flips": flips}
        write_json(place / "lorakit.json", record | {"proof": proof})
    plain = f'AutoModelForSequenceClassification.from_pretrained("{target}")'
    return MergeResult(
        out=target,
        folded=folded,
        kept=[adapter.site.name for adapter in kept],
        rows=len(rows),
        largest_difference=difference,
        largest_logit=float(np.abs(before).max()),
        tolerance=tolerance,
        flips=flips,
        plain=not kept,
        load_line=f'lorakit.load("{target}")' if kept else plain,
    )


def check_target(target: Path, *, force: bool) -> None:
    """Refuse to overwrite without ``force``; with it too, where the place holds anything but an earlier merged model."""
    if not target.exists():
        return
    if not force:
        raise UsageError(
            "is there already", where=str(target), hint="--out for another place, or --force to replace it"
        )
    if not is_merged(target):
        raise UsageError("is not a merged model, and is not replaced", where=str(target), hint="--out for a new folder")


def proof_rows(restored: RestoredRun) -> Encoded:
    """The first rows of the validation split: real text, used for nothing but the comparison."""
    parts = restored.parts
    split = parts.data.splits[parts.task.validation[0]]
    return encode(split.select(range(min(PROOF_ROWS, len(split)))), parts.backbone.tokenizer, parts.max_length)


def read_back(place: Path, model: ModelSection, labels: tuple[str, ...], regression: bool) -> AdaptedModel:
    """The checkpoint as it was written, loaded as a stranger would load it."""
    section = ModelSection(name=str(place), dtype=model.dtype, attention=model.attention)
    backbone = load_backbone(section, labels=labels, regression=regression, seed=0, offline=True)
    return restore_shortcuts(backbone, place)
