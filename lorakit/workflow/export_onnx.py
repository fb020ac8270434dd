"""``lorakit export --to onnx``: a run's classifier for ONNX Runtime, which proves itself before it appears under its name."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from lorakit.adapters.delta import deltas
from lorakit.artifacts.files import folder, write_json, write_text
from lorakit.artifacts.merge import check_foldable, fold
from lorakit.artifacts.onnx_file import INT8, MODEL, OnnxModel, check_installed, write_int8, write_onnx
from lorakit.backbone.padding import padding_note
from lorakit.backbone.readout import PAIR, READOUTS
from lorakit.errors import LorakitError, RunError, command_line
from lorakit.recipe.schema import TaskSection
from lorakit.reporting.tables import counted, memory
from lorakit.result import Result
from lorakit.tasks.batching import encode
from lorakit.training.evaluation import decide, predict_logits, score_logits
from lorakit.training.objective import NO_INPUTS
from lorakit.workflow.card import CARD, card_of, from_here, public_name
from lorakit.workflow.card_usage import Form, Place
from lorakit.workflow.parts import encode_split
from lorakit.workflow.records import read_run
from lorakit.workflow.restore import RestoredRun, restore_run, same_labels
from lorakit.workflow.same_data import check_same_data
from lorakit.workflow.verify import Reference, check_target, predict_reference

RECORD = "lorakit_onnx.json"


@dataclass(frozen=True)
class Int8(Result):
    """What rounding to 8 bits came to.

    Attributes:
        file: the model's name.
        bytes: of it.
        flips: of the proof's rows, those whose label changed.
        largest_difference: of the proof's logits, from the run's.
        rows: of the validation split, on which both are scored; 0 where these could not be read.
        scores: of the 8 bits there.
        float_scores: of the model before.
        note: why they could not be read.
    """

    file: str
    bytes: int
    flips: int
    largest_difference: float
    rows: int
    scores: dict[str, float]
    float_scores: dict[str, float]
    note: str


@dataclass(frozen=True)
class OnnxResult(Result):
    """What was written, and the proof: ONNX Runtime against the run's model, on texts as the written tokenizer has them.

    Attributes:
        out: the folder.
        bytes: of the model, with its weights.
        merged: whether the adapters are in the weights; else they are computed beside them.
        inputs: names of what the model takes, each (rows, tokens).
        labels: in the order of the logits; none for a number.
        rows: of the validation split that both models predicted, one by one and in batches.
        largest_difference: between their logits.
        largest_logit: of the run's model, to compare that with.
        tolerance: the difference that was allowed.
        flips: labels that changed.
        int8: the model in 8 bits, None where none was asked for.
    """

    out: Path
    bytes: int
    merged: bool
    inputs: list[str]
    labels: list[str]
    rows: int
    largest_difference: float
    largest_logit: float
    tolerance: float
    flips: int
    int8: Int8 | None


def export_onnx(
    run: str | Path,
    *,
    out: str | Path | None = None,
    int8: bool = False,
    weights: str | None = None,
    tolerance: float | None = None,
    force: bool = False,
    rank: int | None = None,
) -> OnnxResult:
    """Write a run's classifier for ONNX Runtime, merged where its adapters merge, with its tokenizer and a card.

    It is written beside its place and compared with the run's model on real texts, and takes its name only where no logit moved too
    far. Numbers of rows and of tokens are free, up to the tokens that the run reads.

    Args:
        run: the run's folder.
        out: the folder; ``onnx`` inside the run by default.
        int8: write a second model too, with weights of 8 bits (ONNX Runtime's dynamic quantisation). What it loses is told, and
            refuses nothing.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        tolerance: the largest difference between logits that is accepted; by default 1e-3, and of weights in half precision what
            their rounding comes to.
        force: replace an earlier one that is there.
        rank: write the first so many rank units of each site alone, which a run of search.method=dylora is made for.

    Returns:
        What was written, and the proof.

    Raises:
        UsageError: where there is no run or no such rank, where ``out`` exists, or without the extra ``onnx``.
        RunError: where the texts are read as only lorakit reads them, where ONNX has no form for what the model computes, or where a
            logit moved by more than ``tolerance``; then nothing is written.

    Example:
        >>> lorakit.export_onnx("runs/demo-0", int8=True).int8.scores           # doctest: +SKIP
    """
    check_installed()
    target = Path(run) / "onnx" if out is None else Path(out)
    check_target(target, force=force, kind="an exported ONNX model", is_kind=lambda path: (path / RECORD).is_file())
    restored = restore_run(run, weights, with_data=False, rank=rank)
    check_reading(restored)
    parts, task = restored.parts, restored.parts.task
    reference = predict_reference(restored)
    card = card_of(
        restored,
        read_run(restored.run),
        Form(None, "", ""),
        Place(from_here(target), "onnx"),
        public_name(parts.recipe.model),
        scored=rank is None,
    )
    names = [name for name in reference.rows.collate([0]) if name not in NO_INPUTS]
    merged = folded(restored)
    plain: Any = restored.adapted.model.cpu().float()
    tokenizer = copy.copy(parts.backbone.tokenizer)
    tokenizer.model_max_length = min(parts.cut.length, tokenizer.model_max_length)
    with folder(target) as place:
        write_onnx(plain, names, parts.cut.length, place / MODEL)
        tokenizer.save_pretrained(place)
        plain.config.save_pretrained(place)
        again = AutoTokenizer.from_pretrained(place, trust_remote_code=parts.recipe.model.trust_remote_code)
        rows = encode(reference.texts, again, parts.cut, padding=parts.backbone.padding)
        reference = replace(reference, rows=rows)
        model = OnnxModel(place / MODEL)
        alone = replace(reference, recipe=with_batches_of(reference, 1))
        proofs = [each.prove(model, tolerance, what="exported ONNX model", where=target) for each in (alone, reference)]
        proof = max(proofs, key=lambda each: each.largest_difference)
        rounded = None
        if int8:
            write_int8(place / MODEL, place / INT8)
            rounded = compare_int8(restored, reference, model, OnnxModel(place / INT8))
        record: dict[str, Any] = {
            "run": restored.run.path.name,
            "weights": restored.weights,
            "inputs": model.names,
            "output": "logits",
            "labels": list(task.labels),
            "pair": task.pair,
            "multi_label": task.multi_label,
            "max_length": parts.cut.length,
            "temperature": restored.temperature,
            "merged": merged,
            "proof": vars(proof),
            "int8": None if rounded is None else rounded.to_dict(),
        }
        write_json(place / RECORD, record)
        write_text(place / CARD, card if rounded is None else f"{card}\n{in_8_bits(rounded)}")
        size = sum(path.stat().st_size for path in place.glob(f"{MODEL}*"))
    return OnnxResult(target, size, merged, model.names, list(task.labels), int8=rounded, **vars(proof))


def in_8_bits(rounded: Int8) -> str:
    """What a card says of the second model."""
    scored = ", ".join(
        f"{name} {value:.4f} for {rounded.float_scores[name]:.4f}" for name, value in rounded.scores.items()
    )
    on = f" On {rounded.rows:,} validation rows it has {scored}." if scored else ""
    return (
        f"## In 8 bits\n\n`{rounded.file}` is the same model with weights of 8 bits, {memory(rounded.bytes)}. On the rows that both were "
        f"compared on, {counted(rounded.flips, 'label')} changed, and no logit moved by more than {rounded.largest_difference:.3g}.{on}\n"
    )


def check_reading(restored: RestoredRun) -> None:
    """RunError where a tokenizer and a graph alone would not read texts as the run does."""
    recipe, run = restored.parts.recipe, restored.run.path
    why = ""
    if restored.parts.backbone.padding.ours_alone:
        why = padding_note(restored.parts.backbone.model.config)
    elif recipe.task.long != TaskSection.long:
        why = f"texts of more than {restored.parts.cut.length} tokens are read by task.long={recipe.task.long}"
    elif recipe.model.readout == PAIR:
        why = f"its head reads {READOUTS[PAIR].told}"
    elif deltas.get(restored.parts.linear.delta).pools_rows:
        why = f"'{recipe.adapter.method}' looks at whole rows, however long they are"
    if why:
        hint = f"lorakit.load and {command_line('predict', run)} read the run as it is"
        raise RunError(
            f"an ONNX model would answer otherwise: {why}, which nothing but lorakit does", where=str(run), hint=hint
        )


def folded(restored: RestoredRun) -> bool:
    """Fold the adapters into the weights where all of them can be; whether they are."""
    try:
        check_foldable(restored.adapted)
    except RunError:
        return False
    fold(restored.adapted)
    return not restored.adapted.live_shortcuts


def with_batches_of(reference: Reference, rows: int) -> Any:
    """The reference's recipe with batches of so many rows."""
    recipe = reference.recipe
    return replace(recipe, evaluation=replace(recipe.evaluation, batch_size=rows))


def compare_int8(restored: RestoredRun, reference: Reference, model: OnnxModel, rounded: OnnxModel) -> Int8:
    """The model in 8 bits on the proof's rows against the run, and both models scored on the run's validation rows."""
    task, size = restored.parts.task, reference.recipe.evaluation.batch_size
    logits = predict_logits(rounded, reference.rows, reference.objective, size)
    flips = 0 if task.regression else int((decide(task, logits) != decide(task, reference.logits)).sum())
    scores, before, rows, note, split = dict[str, float](), dict[str, float](), 0, "", task.validation[0]
    try:
        data = same_labels(restored.run, restored.loaded, [split])
        check_same_data(restored.run, data, [split])
    except LorakitError as error:
        note = error.problems[0].what
    else:
        encoded = encode_split(data, split, restored.parts.backbone, restored.parts.cut)
        rows = len(encoded)
        before, scores = (
            score_logits(task, predict_logits(each, encoded, reference.objective, size), encoded)
            for each in (model, rounded)
        )
    weight = sum(path.stat().st_size for path in rounded.path.parent.glob(f"{INT8}*"))
    difference = float(np.abs(logits - reference.logits).max())
    return Int8(INT8, weight, flips, difference, rows, scores, before, note)
