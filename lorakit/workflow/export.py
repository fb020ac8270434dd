"""``lorakit export``: a run's adapter as PEFT has it, which proves itself before it appears under its name."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForSequenceClassification

from lorakit.artifacts.adapter_file import OURS
from lorakit.artifacts.files import folder, write_text
from lorakit.artifacts.peft.export import PeftForm
from lorakit.artifacts.peft.import_ import is_peft, read_peft
from lorakit.artifacts.peft.translate import section_for, sites_of
from lorakit.backbone.config_and_tokenizer import first_line
from lorakit.backbone.load import DTYPES, quiet_transformers
from lorakit.errors import RunError, UsageError, nearest
from lorakit.recipe.schema import ModelSection, SearchSection, TaskSection
from lorakit.result import Result
from lorakit.workflow.card import CARD, card_of, from_here
from lorakit.workflow.card_usage import Form, Place
from lorakit.workflow.import_peft import put_on_model
from lorakit.workflow.in_peft import as_peft, base_in_python, load_lines, pad_token
from lorakit.workflow.parts import Parts
from lorakit.workflow.records import read_run
from lorakit.workflow.restore import RestoredRun, restore_run
from lorakit.workflow.verify import Proof, check_target, predict_reference

logger = logging.getLogger(__name__)

FORMS = ("peft",)


@dataclass(frozen=True)
class ExportResult(Result):
    """What was written, and the proof: the written adapter, read again by PEFT where that is installed, against the run's model.

    Attributes:
        out: the adapter's folder.
        to: the library it is for.
        kind: that library's name of the method.
        method: lorakit's.
        sites: how many have an adapter.
        ranks: the lowest and the highest, in that form.
        rows: of the validation split that both models predicted.
        largest_difference: between their logits.
        largest_logit: of the run's model, to compare that with.
        tolerance: the difference that was allowed.
        flips: labels that changed.
        read_by: who read it for the proof: ``peft`` where that is installed, else ``lorakit``.
        load_line: the lines of Python that load it.
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
    flips: int
    read_by: str
    load_line: str


def export(
    run: str | Path,
    *,
    to: str = "peft",
    out: str | Path | None = None,
    weights: str | None = None,
    tolerance: float | None = None,
    force: bool = False,
    rank: int | None = None,
) -> ExportResult:
    """Write a run's adapter for another library, with its head and a model card.

    It is written beside its place, read again and compared on real batches, and takes its name only where no logit moved too far.

    Args:
        run: the run's folder.
        to: the library: ``peft``.
        out: the adapter's folder; ``peft`` inside the run by default.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        tolerance: the largest difference between logits that is accepted; by default 1e-3, and of weights in half precision what
            their rounding comes to.
        force: replace an earlier exported adapter that is there.
        rank: write the first so many rank units of each site alone, which a run of search.method=dylora is made for.

    Returns:
        What was written, how to load it, and the proof.

    Raises:
        UsageError: where there is no run, no such rank or no such library, or where ``out`` exists.
        RunError: that names what PEFT cannot express, or where a logit moved by more than ``tolerance``; then nothing is written.

    Example:
        >>> exported = lorakit.export("runs/demo-0", out="demo-peft")          # doctest: +SKIP
        >>> print(exported.load_line)                                          # doctest: +SKIP
    """
    if to not in FORMS:
        raise UsageError(f"there is no form '{to}' to export to", valid=", ".join(FORMS), hint=nearest(to, FORMS))
    target = Path(run) / to if out is None else Path(out)
    check_target(target, force=force, kind="an exported adapter", is_kind=is_exported)
    restored = restore_run(run, weights, with_data=False, rank=rank)
    parts = restored.parts
    form = as_peft(restored)
    if parts.recipe.task.long != TaskSection.long:
        logger.warning(
            "this run reads texts of more than %d tokens by task.long=%s, which PEFT does not: do it yourself, or use lorakit.load",
            parts.max_length,
            parts.recipe.task.long,
        )
    code = load_lines(restored, base_in_python(parts.recipe.model), str(target))
    with folder(target) as place:
        write_text(place / CARD, peft_card(restored, form, target, cut=rank is not None))
        proof, reader = write_peft(restored, form, place, target, tolerance)
    ranks = form.ranks.values()
    return ExportResult(
        out=target,
        to=to,
        kind=form.kind,
        method=parts.recipe.adapter.method,
        sites=len(form.ranks),
        ranks=(min(ranks), max(ranks)),
        read_by=reader,
        load_line=code,
        **vars(proof),
    )


def write_peft(
    restored: RestoredRun, form: PeftForm, place: Path, target: Path, tolerance: float | None = None
) -> tuple[Proof, str]:
    """Write the adapter into the folder ``place``, read it again, and compare: the proof, and who read it.

    target: what the folder is called in messages. RunError where a logit moved by more than ``tolerance``.
    """
    reference = predict_reference(restored)
    form.write(place)
    reader = "peft" if find_spec("peft") else "lorakit"
    again = peft_model(place, restored, target) if reader == "peft" else read_back(place, restored)
    return reference.prove(again, tolerance, what=f"exported adapter, as {reader} reads it,", where=target), reader


def is_exported(path: Path) -> bool:
    """Whether the folder is one that `lorakit export` wrote."""
    return is_peft(path) and not (path / OURS).exists()


def peft_model(place: Path, restored: RestoredRun, target: Path) -> nn.Module:
    """The base model with the adapter as PEFT itself reads it. RunError where it does not, or misses a part of it."""
    from peft import PeftModel

    parts, model = restored.parts, restored.parts.recipe.model
    base: Any = load_base(parts, model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            twin: nn.Module = PeftModel.from_pretrained(base, str(place)).eval()
        except Exception as error:  # whatever another library raises about what was written for it
            raise RunError(
                f"PEFT cannot read what was written for it: {first_line(error)}", where=str(target)
            ) from error
    if lacking := [str(each.message) for each in said if "missing adapter keys" in str(each.message)]:
        raise RunError(
            f"PEFT adapts other modules than the run: {lacking[0].splitlines()[0][:300]}",
            where=str(target),
            hint="lorakit merge",
        )
    return twin


def load_base(parts: Parts, model: ModelSection) -> nn.Module:
    """The base model as the model card loads it."""
    names = dict(enumerate(parts.task.labels))
    with quiet_transformers():
        base: nn.Module = AutoModelForSequenceClassification.from_pretrained(
            parts.backbone.folder,
            dtype=DTYPES[model.dtype],
            attn_implementation=parts.backbone.model.config._attn_implementation,
            trust_remote_code=model.trust_remote_code,
            num_labels=parts.task.num_labels,
            ignore_mismatched_sizes=parts.backbone.head.reshaped,
            **({"id2label": names} if names else {}),
            **({} if (pad := pad_token(parts.backbone)) is None else {"pad_token_id": pad}),
        )
    return base


def read_back(place: Path, restored: RestoredRun) -> nn.Module:
    """The adapter as it was written, imported onto a base model of its own."""
    adapter, backbone = read_peft(place), restored.parts.backbone
    section = section_for(adapter, sites_of(adapter, backbone), backbone)
    recipe = replace(restored.loaded.recipe, adapter=section, search=SearchSection())
    _, adapted = put_on_model(adapter, replace(restored.loaded, recipe=recipe), restored.parts.data)
    return adapted.model.eval()


def peft_card(restored: RestoredRun, form: PeftForm, target: Path, *, cut: bool) -> str:
    """The model card of the exported adapter; cut: to a rank that the run's scores are not of."""
    place, base = Place(from_here(target), "peft", peft=""), restored.parts.recipe.model.name
    return card_of(restored, read_run(restored.run), Form(form, "", ""), place, base, scored=not cut)
