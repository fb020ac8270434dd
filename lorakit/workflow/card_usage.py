"""How a card says that a run is loaded: the lines of each library that can, and why one cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lorakit.artifacts.onnx_file import MODEL
from lorakit.artifacts.peft.export import PeftForm
from lorakit.errors import command_line
from lorakit.reporting.model_card import in_code, pipeline_usage, quoted
from lorakit.tasks.task import Task
from lorakit.workflow.in_peft import base_in_python, load_lines
from lorakit.workflow.restore import RestoredRun


@dataclass(frozen=True)
class Form:
    """What a run can be for others. peft: its adapter as PEFT has it; why_not_peft, why_not_plain: empty where it can be loaded so."""

    peft: PeftForm | None
    why_not_peft: str
    why_not_plain: str


@dataclass(frozen=True)
class Place:
    """What a card lies beside, and how its lines name that.

    name: a folder, or the hub's OWNER/NAME; on_hub: which of them; kind: ``run`` for the files of a run, ``peft`` for those of an
    adapter alone, ``merged`` for a checkpoint, ``onnx`` for an ONNX model; peft: the folder in it that PEFT reads, None where there is
    none; figures: which lie there.
    """

    name: str
    kind: str
    on_hub: bool = False
    peft: str | None = None
    figures: Sequence[str] = field(default_factory=tuple)


def use_told(restored: RestoredRun, form: Form, place: Place, base: str) -> list[str]:
    """All of it for what lies in ``place``; base: what others call the base model."""
    task, length = restored.parts.task, restored.parts.cut.length
    if place.kind == "onnx":
        return [in_code(onnx_usage(place.name, task, length))]
    by_lorakit = [] if place.kind == "peft" else ["### lorakit", in_code(lorakit_usage(place, task.pair))]
    if place.kind == "merged":
        return [*by_lorakit, *merged_told(restored, form, place.name)]
    return [*by_lorakit, *(not_in_peft(form) if form.peft is None else in_peft_told(restored, place, base))]


def lorakit_usage(place: Place, pair: bool) -> str:
    """The lines of Python that label a text by lorakit."""
    imports, where = ["import lorakit"], quoted(place.name)
    if place.on_hub:
        imports, where = [*imports, "from huggingface_hub import snapshot_download"], f"snapshot_download({where})"
    texts = '("a text", "and its second text")' if pair else '"a text"'
    return "\n".join([*imports, "", f"classifier = lorakit.load({where})", f"print(classifier.predict([{texts}]))"])


def merged_told(restored: RestoredRun, form: Form, folder: str) -> list[str]:
    """Of a checkpoint by transformers."""
    if form.why_not_plain:
        return [f"### transformers\n\nOnly lorakit loads this checkpoint; of any other loader, {form.why_not_plain}."]
    return ["### transformers", in_code(labelled_by(restored, quoted(folder), quoted(folder)))]


def not_in_peft(form: Form) -> list[str]:
    """Of an adapter that PEFT has no form of."""
    told = "`lorakit merge` writes a checkpoint of the run that transformers loads by itself."
    if form.why_not_plain:
        told = f"Transformers alone cannot load it, merged neither: {form.why_not_plain}."
    return [f"### PEFT\n\nPEFT cannot load this adapter: {form.why_not_peft}.", f"### transformers\n\n{told}"]


def in_peft_told(restored: RestoredRun, place: Place, base: str) -> list[str]:
    """Of an adapter by PEFT, and by a pipeline of transformers then."""
    model = restored.parts.recipe.model
    named, folder, within, first = base_in_python(replace(model, name=base)), place.name, place.peft, "### PEFT"
    if within is None:
        folder, within = f"{place.name}/peft", ""
        first += f"\n\n`{command_line('export', place.name)}` writes the adapter in PEFT's form first."
    given = (("revision", model.revision), ("trust_remote_code", model.trust_remote_code or None))
    options = "".join(f", {name}={value!r}" for name, value in given if value is not None)
    tokenizer = f"AutoTokenizer.from_pretrained({named}{options})"
    return [
        first,
        in_code(load_lines(restored, named, folder, within)),
        "### transformers\n\nWith the lines for PEFT before:",
        in_code(labelled_by(restored, "model.merge_and_unload()", tokenizer)),
    ]


def labelled_by(restored: RestoredRun, model: str, tokenizer: str) -> str:
    """The lines of a pipeline over a model and a tokenizer that are such expressions."""
    task, length = restored.parts.task, restored.parts.cut.length
    example = '{"text": "a text", "text_pair": "and its second text"}' if task.pair else '"a text"'
    return pipeline_usage(model, tokenizer, example, length, several=task.multi_label)


def onnx_usage(folder: str, task: Task, length: int) -> str:
    """The lines of Python that label a text by ONNX Runtime."""
    texts = '["a text"], ["and its second text"]' if task.pair else '["a text"]'
    answer = "print([labels[best] for best in logits.argmax(-1)])"
    if task.regression:
        answer = "print(logits[:, 0].tolist())"
    elif task.multi_label:
        answer = "print([[label for label, logit in zip(labels, row) if logit >= 0] for row in logits])"
    lines = [
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted(folder)})",
        f'session = onnxruntime.InferenceSession({quoted(f"{folder}/{MODEL}")}, providers=["CPUExecutionProvider"])',
        *([] if task.regression else [f"labels = {list(task.labels)}"]),
        f'rows = tokenizer({texts}, padding=True, truncation=True, max_length={length}, return_tensors="np")',
        '(logits,) = session.run(None, {each.name: rows[each.name].astype("int64") for each in session.get_inputs()})',
        answer,
    ]
    return "\n".join(lines)
