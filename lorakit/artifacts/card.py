"""The README.md beside an exported adapter: a model card as the hub reads them, short and true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.backbone.model_folder import HUB_NAME

CARD = """\
---
{origin}library_name: peft
pipeline_tag: text-classification
tags: [lorakit, {method}]
---

# {title}

A {kind} adapter for `{base}` that was trained with lorakit (method `{method}`) for {task}.

| | |
|---|---|
| labels | {labels} |
| adapted modules | {sites} |
| adapter parameters | {parameters:,} |
{scores}
## Use

```python
{usage}
```
"""
FIND = "find_spec"
"""What an expression for the base model may call, to find a package without importing it."""
USAGE = """\
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained({arguments})
model = PeftModel.from_pretrained(base, "{folder}")"""


def usage(
    base: str,
    folder: str,
    labels: Sequence[str],
    pad_token_id: int | None,
    dtype: str,
    reshaped: bool = False,
    problem_type: str = "",
) -> str:
    """The lines of Python that load the adapter with PEFT.

    base: the base model's name as a Python expression; dtype: of its weights in the run, which need not be that of its file; reshaped:
    whether its own head is one for another number of labels; problem_type: what transformers calls such a task, where a pipeline would
    take it for another.
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
    code = USAGE.format(arguments=", ".join(arguments), folder=folder)
    return f"from importlib.util import {FIND}\n\n{code}" if base.startswith(FIND) else code


def model_card(
    *,
    title: str,
    base: str,
    kind: str,
    method: str,
    task: str,
    labels: Sequence[str],
    sites: int,
    parameters: int,
    scores: Mapping[str, Any],
    code: str,
    temperature: float = 1.0,
) -> str:
    """The card's text. scores: on the validation split, none where the run was not trained here; temperature: 1 where there is none."""
    rows = "".join(f"| {name} (validation) | {value:.4f} |\n" for name, value in scores.items())
    if temperature != 1:
        rows += f"| temperature | {temperature:.6g}: divide logits by it before a softmax; no label changes |\n"
    return CARD.format(
        title=title,
        origin=f"base_model: {base}\n" if HUB_NAME.fullmatch(base) and not Path(base).exists() else "",
        base=base,
        kind=kind,
        method=method,
        task=task,
        labels=", ".join(labels) or "a number",
        sites=sites,
        parameters=parameters,
        scores=rows,
        usage=code,
    )
