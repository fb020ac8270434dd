"""What the benchmarks have in common: a clock that waits for the device, models of random weights, made-up batches, paired ratios."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import Run, environment
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import ModelSection
from lorakit.training.search_hook import SearchHook
from lorakit.training.training import Training
from lorakit.workflow.prepare import prepare
from lorakit.workflow.setup import assemble

Side = TypeVar("Side")
SMALL = (
    "search.method=none",
    "adapter.shortcuts=[]",
    "training.max_steps=2",
    "task.max_train_rows=64",
    "task.max_eval_rows=32",
    "evaluation.baselines=[]",
    "run.offline=true",
)
"""Settings of a run whose answers do not matter."""


def timed(action: Callable[[], Any]) -> float:
    """Seconds of ``action`` by the ``clock``; on a GPU all that it gave the GPU to do, and nothing that was given before."""
    now = getattr(time, clock())
    wait()
    started = now()
    action()
    wait()
    return float(now() - started)


def clock() -> str:
    """The function of ``time`` that is read: one CPU thread alone counts its own work, whatever else the machine does."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return "process_time" if alone else "perf_counter"


def wait() -> None:
    """Until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_report(folder: Path, name: str, report: Mapping[str, Any]) -> None:
    """Write what was measured, and where, as ``name``.json in ``folder``; print what was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {**report, "environment": environment()})
    print(json.dumps(report, indent=1))


def turned(sides: Sequence[Side], number: int) -> list[Side]:
    """The sides in an order that turns with every round, so that none is always first."""
    shift = number % len(sides)
    return [*sides[shift:], *sides[:shift]]


def training_of(recipe: str, settings: Sequence[str], folder: Path) -> tuple[Training, SearchHook | None]:
    """A training that has not begun, and its search; ``folder`` is its run."""
    loaded = load_recipe(recipe, [*settings, "run.offline=true"])
    parts = assemble(loaded)
    run = Run(folder)
    training = prepare(loaded, parts, run)
    run.start(loaded.to_yaml(), parts.task)
    return training, next((hook for hook in training.hooks if isinstance(hook, SearchHook)), None)


def random_model(sizes: Mapping[str, int], folder: Path, tokenizer: str = "bundled:minilm") -> Path:
    """A checkpoint of random weights, with a model's tokenizer, made once in ``folder``."""
    path = folder / "model"
    if path.exists():
        return path
    source = find_checkpoint(ModelSection(name=tokenizer), offline=True)
    common = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    config = AutoConfig.for_model("roberta", **common, **sizes)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path


def made_up(batch_size: int, tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of random tokens of full length."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, tokens)
    ids = torch.randint(1000, 20000, shape, generator=generator)
    labels = torch.randint(0, 2, shape[:1], generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.long), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles of paired ratios."""
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    low, middle, high = statistics.quantiles(pairs, n=4)
    return {"median": middle, "low": low, "high": high}
