"""A model card, the README.md that the hub reads: metadata in front, then what a run remembers, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lorakit.backbone.model_folder import HUB_NAME
from lorakit.reporting.page import Numbers

CLASSIFICATION = "text-classification"
"""What the hub calls every task that lorakit knows, numbers included."""
HUB_METRICS = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "subset_accuracy": "accuracy",
    "r2": "r_squared",
}
"""Our name of a metric -> the hub's, where they differ."""
FIND = "find_spec"
"""What an expression for the base model may call, to find a package without importing it."""


def quoted(text: str) -> str:
    """The text as Python writes it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def usage(
    base: str,
    folder: str,
    labels: Sequence[str],
    pad_token_id: int | None,
    dtype: str,
    reshaped: bool = False,
    problem_type: str = "",
    subfolder: str = "",
    options: Mapping[str, Any] | None = None,
) -> str:
    """The lines of Python that load the adapter with PEFT.

    base: the base model's name as a Python expression; folder: what holds the adapter, in its ``subfolder`` where there is one;
    dtype: of the weights in the run, which need not be that of its file; reshaped: whether the base model's own head is one for
    another number of labels; problem_type: what transformers calls such a task, where a pipeline would take it for another;
    options: more of ``from_pretrained``.
    """
    arguments = [base, f'dtype="{dtype}"', f"num_labels={len(labels) or 1}"]
    if labels:
        arguments.append(f"id2label={dict(enumerate(labels))}")
    if problem_type:
        arguments.append(f'problem_type="{problem_type}"')
    if pad_token_id is not None:
        arguments.append(f"pad_token_id={pad_token_id}")
    if reshaped:
        arguments.append("ignore_mismatched_sizes=True")
    arguments += [f"{name}={value!r}" for name, value in (options or {}).items()]
    within = f", subfolder={quoted(subfolder)}" if subfolder else ""
    lines = [
        *([f"from importlib.util import {FIND}", ""] if base.startswith(FIND) else []),
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification",
        "",
        f"base = AutoModelForSequenceClassification.from_pretrained({', '.join(arguments)})",
        f"model = PeftModel.from_pretrained(base, {quoted(folder)}{within})",
    ]
    return "\n".join(lines)


def pipeline_usage(model: str, tokenizer: str, example: str, length: int, *, several: bool = False) -> str:
    """The lines of Python that label a text by a transformers pipeline, of a model and a tokenizer that are such expressions.

    several: whether a text may have several labels, of which a pipeline else tells one.
    """
    return "\n".join(
        [
            f"from transformers import {'AutoTokenizer, ' if tokenizer.startswith('AutoTokenizer') else ''}pipeline",
            "",
            f'classify = pipeline("{CLASSIFICATION}", model={model}, tokenizer={tokenizer})',
            f"print(classify({example}, truncation=True, max_length={length}{', top_k=None' if several else ''}))",
        ]
    )


def metadata(
    *,
    name: str,
    base: str,
    library: str,
    method: str,
    dataset: str,
    config: str,
    split: str,
    task: str,
    scores: Mapping[str, float],
) -> str:
    """The YAML in front of a card.

    name: of the model; base: of its base model, told where the hub may have it; dataset: the hub's, or of own data what people call
    it; config and split: of it; scores: none where the run has none.
    """
    from huggingface_hub import EvalResult, ModelCardData

    hub = dataset if "/" in dataset else None
    results = [
        EvalResult(
            task_type=CLASSIFICATION,
            dataset_type=dataset,
            dataset_name=task,
            dataset_config=config or None,
            dataset_split=split,
            metric_type=HUB_METRICS.get(metric, metric),
            metric_value=value,
            metric_name=metric,
        )
        for metric, value in scores.items()
        if "/" not in metric  # of a further split
    ]
    data = ModelCardData(
        base_model=base if HUB_NAME.fullmatch(base) else None,
        datasets=hub,
        library_name=library,
        pipeline_tag=CLASSIFICATION,
        tags=["lorakit", method],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def in_markdown(table: Numbers) -> str:
    """A table under its title, as markdown has it."""
    lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
    drawn = "\n".join("| " + " | ".join(cell(each) for each in line) + " |" for line in lines)
    return f"### {table.title}\n\n{drawn}" + (f"\n\n{table.note}" if table.note else "")


def cell(text: str) -> str:
    """A text that ends no cell and is no markup of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def in_code(code: str) -> str:
    """Python as markdown has it."""
    return f"```python\n{code}\n```"


def model_card(front: str, title: str, about: str, sections: Iterable[tuple[str, Sequence[str]]]) -> str:
    """The whole card. sections: headings with their paragraphs; those without any are left out."""
    parts = [f"---\n{front.strip()}\n---", f"# {title}", about]
    for heading, paragraphs in sections:
        if paragraphs:
            parts += [f"## {heading}", *paragraphs]
    return "\n\n".join(parts) + "\n"
