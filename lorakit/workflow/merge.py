"""``lorakit merge``: a run becomes a plain checkpoint, which proves itself before it appears under its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lorakit.adapters.adapter import Adapter
from lorakit.artifacts.channel_cut import channel_cuts
from lorakit.artifacts.files import folder, write_json
from lorakit.artifacts.merge import check_foldable, fold_later, save_merged, shortcut_record
from lorakit.backbone.adapted_folder import LENGTH, NO_LIMIT
from lorakit.backbone.dense_again import found_again, integers
from lorakit.backbone.heap import trim
from lorakit.backbone.load import quiet_transformers
from lorakit.backbone.readout import READOUTS
from lorakit.recipe.schema import ModelSection, TaskSection
from lorakit.result import Result
from lorakit.tasks.batching import Encoded, encode
from lorakit.workflow.parts import Parts
from lorakit.workflow.restore import is_merged, restore_merged, restore_run
from lorakit.workflow.verify import check_target, predict_reference

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Pruned(Result):
    """A checkpoint that is smaller than the pretrained model.

    Attributes:
        left: ``channels`` of every MLP, and ``heads`` of keys and values in every layer where some went, to how many there are.
        before: the same to how many there were.
        parameters: of the checkpoint.
        parameters_before: what it would have if none had gone.
        weight_bytes: the size of its files of weights.
    """

    left: dict[str, int]
    before: dict[str, int]
    parameters: int
    parameters_before: int
    weight_bytes: int


@dataclass(frozen=True)
class MergeResult(Result):
    """What was folded, what was kept beside it, and the proof: the written checkpoint, loaded again, against the run's model.

    Attributes:
        out: the checkpoint's folder.
        folded: sites whose update is in the weights now.
        kept: sites that a plain checkpoint cannot hold, shortcuts; they lie beside it, and ``lorakit.load`` reads them.
        rows: of the validation split that both models predicted.
        largest_difference: between their logits.
        largest_logit: of the run's model, to compare that with.
        tolerance: the difference that was allowed.
        flips: labels that changed.
        plain: whether transformers alone can load it, which is where nothing was kept, and texts are padded and cut as it does.
        closed: why not: what another loader would do otherwise, in words; empty where it can.
        int4_group: the group in which rounding it to int4 gives the integers of before, as after QA-LoRA, so that lorakit loads it in
            4 bits; None where the run was not in int4, or rounding again would move weights.
        load_line: the line of Python that loads it.
        pruned: where the run has closed channels or heads, how much smaller the checkpoint is; else None.
        temperature: what its logits are to be divided by before a softmax; ``lorakit.load`` does that, transformers does not. 1: none.
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
    closed: list[str]
    int4_group: int | None
    load_line: str
    pruned: Pruned | None
    temperature: float


def merge(
    run: str | Path,
    *,
    out: str | Path | None = None,
    weights: str | None = None,
    tolerance: float | None = None,
    force: bool = False,
    rank: int | None = None,
) -> MergeResult:
    """Fold a run's adapters into a plain Hugging Face checkpoint.

    It is written beside its place, loaded again and compared on real batches, and takes its name only where no logit moved too far.

    Args:
        run: the run's folder.
        out: the checkpoint's folder; ``merged`` inside the run by default.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select of the run
            says by default.
        tolerance: the largest difference between logits that is accepted; by default 1e-3, and of weights in half precision what
            their rounding comes to.
        force: replace an earlier merged model that is there.
        rank: fold the first so many rank units of each site alone, which a run of search.method=dylora is made for.

    Returns:
        What was folded, what was kept beside it, and the proof.

    Raises:
        UsageError: where there is no run or no such rank, or where ``out`` exists.
        RunError: where what was trained is no weight, or a logit moved by more than ``tolerance``; then nothing is written.

    Example:
        >>> merged = lorakit.merge("runs/demo-0", out="demo-merged")           # doctest: +SKIP
        >>> merged.flips                                                       # doctest: +SKIP
        0
    """
    target = Path(run) / "merged" if out is None else Path(out)
    check_target(target, force=force, kind="a merged model", is_kind=is_merged)
    restored = restore_run(run, weights, with_data=False, rank=rank)
    parts, adapted = restored.parts, restored.adapted
    check_foldable(adapted)
    reference = predict_reference(restored)
    kept = adapted.live_shortcuts
    before, cuts = integers(adapted.model), channel_cuts(adapted)
    (count, folded), closed = fold_later(adapted), why_closed(parts, kept)
    int4_group = found_again(folded, before)
    parameters = sum(parameter.numel() for parameter in adapted.model.parameters())
    for cut in cuts:
        folded = cut.cut(folded, adapted.model)
    with folder(target) as place:
        save_merged(adapted, place, kept, parts.max_length, closed=bool(closed), folded=folded)
        folded.clear()
        adapted.model.to("meta")  # what proves itself is alone in memory
        trim()
        record: dict[str, Any] = {
            "run": str(run),
            "weights": restored.weights,
            "task": parts.task.name,
            "max_length": parts.recipe.task.max_length,
            LENGTH: min(int(parts.backbone.tokenizer.model_max_length), NO_LIMIT),
            "pair": parts.task.pair,
            "long": parts.recipe.task.long,
            "window_pooling": parts.recipe.task.window_pooling,
            "readout": parts.recipe.model.readout,
            "temperature": restored.temperature,
            "int4_group": int4_group,
            "shortcuts": shortcut_record(kept, parts.recipe.adapter.shortcut_norm) if kept else None,
        }
        write_json(place / "lorakit.json", record)
        model = parts.recipe.model
        if closed:
            again = restore_merged(ModelSection(name=str(place), dtype=model.dtype, attention=model.attention))
            proof = reference.prove(again.model, tolerance, what="merged folder", where=target)
        else:
            plain, rows = load_plain(place, reference.texts, parts, trust=model.trust_remote_code)
            what = "merged folder, as transformers loads it by itself,"
            proof = reference.prove(plain, tolerance, what=what, where=target, rows=rows)
        weight_bytes = sum(path.stat().st_size for path in place.glob("*.safetensors"))
        told = ("rows", "largest_difference", "tolerance", "flips")
        write_json(place / "lorakit.json", record | {"proof": {name: getattr(proof, name) for name in told}})
    left, gone = {cut.kind: cut.after for cut in cuts}, sum(cut.parameters for cut in cuts)
    were = {cut.kind: cut.before for cut in cuts}
    load_line = f'AutoModelForSequenceClassification.from_pretrained("{target}")'
    return MergeResult(
        out=target,
        folded=count,
        kept=[adapter.site.name for adapter in kept],
        plain=not closed,
        closed=closed,
        int4_group=int4_group,
        load_line=f'lorakit.load("{target}")' if closed else load_line,
        pruned=Pruned(left, were, parameters - gone, parameters, weight_bytes) if cuts else None,
        temperature=restored.temperature,
        **vars(proof),
    )


def why_closed(parts: Parts, kept: Sequence[Adapter]) -> list[str]:
    """What a loader that is not lorakit's would do otherwise with the merged folder, and say nothing."""
    model, task = parts.recipe.model, parts.recipe.task
    return [
        *["it would leave out the shortcuts"] * bool(kept),
        *["it would pad texts otherwise"] * parts.backbone.padding.ours_alone,
        *[f"it would not read long texts by task.long: {task.long}"] * (task.long != TaskSection.long),
        *([f"its head would not read {READOUTS[model.readout].told}"] if model.readout in READOUTS else []),
    ]


def load_plain(folder: Path, texts: Dataset, parts: Parts, *, trust: bool) -> tuple[nn.Module, Encoded]:
    """The checkpoint as anybody loads it, without lorakit and without an option, and the texts as its tokenizer has them."""
    with quiet_transformers():
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=trust)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    return model.eval(), encode(texts, tokenizer, parts.cut, padding=parts.backbone.padding)
