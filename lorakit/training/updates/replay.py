"""Replay: every step goes over some rows of earlier tasks too (Chaudhry et al. 2019, On Tiny Episodic Memories, arXiv 1902.10486).

    gradient of the adapters <- that of the step's rows + weight * that of as many rows of the memory as a batch has

A row of the memory is answered by the head of its own task, which stays as that task left it, and counts by plain cross-entropy; the
adapter alone learns from it. Rows are drawn without replacement within a step, from the update's own stream; the memory is a file that
a sequence of tasks writes (`continual.method: replay`): a reservoir of all rows so far, or as many of each class.
Costs a second forward and backward pass a step.
Not checked against the authors' code, which was not read: follows the method section of the paper. It has one head for all tasks, which
learns from the memory; here each task has one of its own.
When to use it: where a few rows of earlier tasks may be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from datasets import Dataset
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lorakit.adapters.adapted_model import HEAD
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.artifacts.adapter_file import read_head
from lorakit.artifacts.memory_file import read_memory, run_of_memory
from lorakit.errors import Problem, RunError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import Recipe
from lorakit.searching.scoring import without_trace
from lorakit.tasks.batching import Encoded, encode
from lorakit.tasks.long_texts import Cut
from lorakit.training.hooks import TrainState
from lorakit.training.objective import Objective
from lorakit.training.update import Update, UpdateContext, updates


@dataclass(frozen=True)
class Remembered:
    """The rows of one earlier task: its head's tensors by name, its tokenised rows, and how logits of windows become a row's."""

    head: Mapping[str, torch.Tensor]
    rows: Encoded
    objective: Objective


class Replay(Update):
    """tasks: what is remembered of each; places: of every row of the memory its task and its number there."""

    name = "replay"
    summary = "every step goes over rows of earlier tasks too, each under its own task's head"
    source = "Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning, arXiv 1902.10486"
    of_sequences = True
    options: ClassVar = {
        "memory": Option("", "the file of rows, which a sequence writes"),
        "weight": Option(1.0, "of the gradient on the memory's rows", above=0.0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It needs its memory, whole batches, and gradients that are not scaled."""
        problems = []
        if not recipe.adapter.update_options.get("memory"):
            what = "update 'replay' goes over a memory of earlier tasks, and a recipe of one task has none"
            problems.append(
                Problem(what, key="adapter.updates", hint="continual.method=replay, in a recipe with a sequence")
            )
        if recipe.training.precision == "fp16":
            what = "update 'replay' takes a gradient of its own, without the scaled loss that float16 needs"
            problems.append(Problem(what, key="training.precision", valid="fp32 or bf16 with it"))
        if recipe.training.micro_tokens is not None:
            what = "update 'replay' passes whole batches of remembered rows"
            problems.append(Problem(what, key="training.micro_tokens", valid="null with it"))
        if recipe.training.freeze_below:
            what = "update 'replay' runs whole models on remembered rows, whose lower layers have dropout that frozen ones have not"
            problems.append(Problem(what, key="training.freeze_below", valid="null with it"))
        if recipe.search.method != "none":
            what = f"update 'replay' adds gradients that search '{recipe.search.method}' does not weigh"
            problems.append(Problem(what, key="search.method", valid="none"))
        return problems

    @classmethod
    def passes_a_step(cls, settings: Mapping[str, Any]) -> int:
        """One, of the memory."""
        return 1

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        path = Path(self.settings["memory"])
        self.tasks = [self.remember(path, run, rows) for run, rows in read_memory(path).items()]
        self.places = [(task, row) for task, held in enumerate(self.tasks) for row in range(len(held.rows))]
        self.parameters = [tensor.parameter for tensor in context.adapted.trained() if tensor.role != HEAD]

    def remember(self, path: Path, name: str, rows: list[dict[str, Any]]) -> Remembered:
        """The rows of one task, as its own recipe reads them, and its head."""
        run, context = run_of_memory(path, name), self.context
        classes = len(run.task().labels)
        if wrong := [row["label"] for row in rows if row["label"] >= classes]:
            what = f"a row of {name} has the label {wrong[0]}, and there are {classes} labels, from 0"
            raise RunError(what, where=str(path), hint="a copy of the sequence's folder")
        section, backbone = load_recipe(run.recipe).recipe.task, context.adapted.backbone
        columns = [column for column in ("text", "text_pair", "label") if column in rows[0]]
        table = {column: [row[column] for row in rows] for column in columns} | {"idx": [*range(len(rows))]}
        cut = Cut(backbone.longest_text(section.max_length), section.long)
        encoded = encode(
            Dataset.from_dict(table), backbone.tokenizer, cut, f"the memory of {name}", None, backbone.padding
        )
        device = context.objective.accelerator.device
        head = {part: tensor.to(device) for part, tensor in read_head(context.adapted, run.weights("last")).items()}
        return Remembered(head, encoded, replace(context.objective, pooling=section.window_pooling))

    def after_backward(self, state: TrainState) -> None:
        """Add the gradient on remembered rows."""
        context = self.context
        number = min(context.recipe.training.batch_size, len(self.places))
        drawn = torch.randperm(len(self.places), generator=context.generator)[:number].tolist()
        seed = int(torch.randint(2**31, (), generator=context.generator))
        with without_trace(context.adapted, train_mode=True, seed=seed, all_on=False), torch.enable_grad():
            loss = self.loss([self.places[place] for place in drawn])
            gradients = torch.autograd.grad(self.settings["weight"] * loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def loss(self, places: list[tuple[int, int]]) -> torch.Tensor:
        """The mean cross-entropy of these rows of the memory, each under its task's head."""
        parts = []
        for task, held in enumerate(self.tasks):
            if rows := [row for owner, row in places if owner == task]:
                batch = held.rows.collate(rows)
                logits = held.objective.logits(cast(nn.Module, self.under(held.head)), batch)
                parts.append(F.cross_entropy(logits, batch["labels"].to(logits.device), reduction="sum"))
        return torch.stack(parts).sum() / len(places)

    def under(self, head: Mapping[str, torch.Tensor]) -> Any:
        """The model with ``head`` in its own one's place."""
        return lambda **inputs: functional_call(self.context.adapted.model, dict(head), kwargs=inputs)


updates.register(Replay)
