"""``lorakit export``: a run's adapter as PEFT has it, which proves itself before it appears under its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.card import FIND, model_card, usage
from lorakit.artifacts.files import folder, write_text
from lorakit.artifacts.peft.export import PeftForm, peft_form
from lorakit.artifacts.peft.import_ import is_peft, read_peft
from lorakit.artifacts.peft.translate import fill, section_for, sites_of
from lorakit.backbone.load import Backbone
from lorakit.backbone.model_folder import BUNDLED
from lorakit.errors import RunError, UsageError, nearest
from lorakit.recipe.schema import ModelSection
from lorakit.training.evaluation import predict_logits
from lorakit.training.objective import Objective
from lorakit.workflow.merge import proof_rows
from lorakit.workflow.restore import RestoredRun, restore_run
from lorakit.workflow.setup import Result, adapt, assemble, make_accelerator

FORMS = ("peft",)


@dataclass(frozen=True)
class ExportResult(Result):
    """What was written, and the proof: the written adapter, read again, against the run's.

    kind: PEFT's name of the method; ranks: (lowest, highest) in that form; rows: of the validation split that both predicted.
    """

    out: Path
    to: str
    kind: str
    method: str
    sites: int
    ranks: tuple[int, int]
    rows: int
    largest_difference: float
    largest_logit: float
    tolerance: float
    load_line: str


def export(
    run: Path,
    *,
    to: str = "peft",
    out: Path | None = None,
    weights: str = "last",
    tolerance: float = 1e-3,
    force: bool = False,
    rank: int | None = None,
) -> ExportResult:
    """Write ``run``, cut to ``rank`` where one is given, as a PEFT adapter into ``out`` (``peft`` inside the run by default).

    Raises RunError that names what PEFT cannot express, or where the adapter as it was written gives other logits; then nothing is
    written.
    """
    if to not in FORMS:
        raise UsageError(f"there is no form '{to}' to export to", valid=", ".join(FORMS), hint=nearest(to, FORMS))
    target = out or run / to
    check_target(target, force=force)
    restored = restore_run(run, weights, rank=rank)
    parts, adapted = restored.parts, restored.adapted
    form = peft_form(adapted)
    rows = proof_rows(restored)
    objective = Objective(make_accelerator(parts.recipe), parts.task.regression)
    size = parts.recipe.evaluation.batch_size
    objective.accelerator.prepare_model(adapted.model)
    before = predict_logits(adapted.model, rows, objective, size)
    with folder(target) as place:
        form.write(place)
        model = parts.recipe.model
        code = usage(base_of(model), str(target), parts.task.labels, pad_token(parts.backbone), model.dtype)
        write_text(place / "README.md", card(restored, form, code))
        again = read_back(place, restored)
        objective.accelerator.prepare_model(again.model)
        difference = float(np.abs(predict_logits(again.model, rows, objective, size) - before).max())
        if not difference <= tolerance:
            raise RunError(
                f"the exported adapter's logits differ by {difference:.3g} from the run's",
                where=str(target),
                valid=f"at most {tolerance:.3g}",
                hint="--tolerance if that is good enough for you",
            )
    ranks = form.ranks.values()
    return ExportResult(
        out=target,
        to=to,
        kind=form.kind,
        method=parts.recipe.adapter.method,
        sites=len(form.ranks),
        ranks=(min(ranks), max(ranks)),
        rows=len(rows),
        largest_difference=difference,
        largest_logit=float(np.abs(before).max()),
        tolerance=tolerance,
        load_line=code,
    )


def check_target(target: Path, *, force: bool) -> None:
    """Refuse to overwrite without ``force``; with it too, where the place holds anything but an exported adapter."""
    if target.exists() and not force:
        raise UsageError("is there already", where=str(target), hint="--out for another place, or --force")
    if target.exists() and (not is_peft(target) or (target / "lorakit.json").exists()):
        raise UsageError("is not an exported adapter, and is not replaced", where=str(target), hint="--out")


def read_back(place: Path, restored: RestoredRun) -> AdaptedModel:
    """The adapter as it was written, imported onto a base model of its own."""
    adapter = read_peft(place)
    loaded, data = restored.loaded, restored.parts.data
    backbone = restored.parts.backbone
    section = section_for(adapter, sites_of(adapter, backbone), backbone)
    recipe = replace(loaded.recipe, adapter=section, search=type(loaded.recipe.search)())
    adapted = adapt(assemble(replace(loaded, recipe=recipe), data), statistics=None)
    with torch.no_grad():
        fill(adapted, adapter)
    adapted.model.eval()
    return adapted


def base_of(model: ModelSection) -> str:
    """How Python names the base model: by its name, or a bundled one by its folder in the installed package."""
    bundled = BUNDLED.get(model.name)
    if bundled is None:
        return f'"{model.name}"'
    return f'{FIND}("{bundled.package}").submodule_search_locations[0] + "/{bundled.folder}"'


def pad_token(backbone: Backbone) -> int | None:
    """The pad token that a model needs to find each text's end, where its checkpoint may not name it."""
    config = backbone.model.config
    return None if config.is_encoder_decoder or backbone.tokenizer.padding_side != "right" else config.pad_token_id


def card(restored: RestoredRun, form: PeftForm, code: str) -> str:
    """The model card of the exported adapter."""
    parts, run = restored.parts, restored.run
    return model_card(
        title=f"{parts.recipe.adapter.method} for {parts.task.name}",
        base=parts.recipe.model.name,
        kind=form.kind,
        method=parts.recipe.adapter.method,
        task=parts.task.name,
        labels=parts.task.labels,
        sites=len(form.ranks),
        parameters=restored.adapted.adapter_parameters(restored.adapted.in_function),
        scores=run.checked_summary()["last"] if run.finished else {},
        code=code,
    )
