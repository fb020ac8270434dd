"""``lorakit plan --fit 24GB``: what would make a training fit into so much memory, from what changes least.

First the batch in smaller parts (the same gradients), then layers computed again on the way back (the same, in more time), then half
precision, weights of half the size, and weights of 4 bits. Each is planned on the model as it would be loaded, by the account of
``memory``; the first that fits with parts of at least a quarter of the batch is told, else the first that fits at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.errors import LorakitError, UsageError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.result import Result
from lorakit.workflow.memory import Footprint, Measured, measure, passed_whole
from lorakit.workflow.setup import adapt, assemble, drop_unused_work
from lorakit.workflow.sharding import check_sharding

STEPS = (
    "training.gradient_checkpointing=true",
    "training.precision=bf16",
    "model.dtype=bfloat16",
    "model.quantization=nf4",
)
"""What is tried in turn, on top of what was tried before."""
OTHERS = 2**29
"""Bytes that are not planned: those of a GPU's driver and of libraries."""
ENOUGH = 4
"""Parts that a batch is cut into before something else is tried."""
UNITS = {"GB": 10**9, "MB": 10**6, "GiB": 2**30, "MiB": 2**20}


@dataclass(frozen=True)
class Tried(Result):
    """Settings and what they come to.

    Attributes:
        settings: ``KEY=VALUE``, on top of the recipe.
        peak: bytes that the training takes, with the smallest parts where nothing fits; None where the model refuses the settings.
        fits: whether that is within the limit.
        why: why they are refused; empty where they are not.
    """

    settings: list[str]
    peak: int | None
    fits: bool
    why: str = ""


@dataclass(frozen=True)
class Fit(Result):
    """What fits.

    Attributes:
        limit: bytes that there are for the training, half a GiB of the whole left to driver and libraries.
        tried: in the order in which it was.
        settings: ``KEY=VALUE`` that make it fit, none where it does as it is; None where nothing does.
    """

    limit: int
    tried: list[Tried]
    settings: list[str] | None


def read_size(text: str) -> int:
    """Bytes of ``24GB`` (10^9), ``24GiB`` (2^30), ``800MB`` or ``800MiB``. UsageError for anything else, and for too little."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GM])(i?)B?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"'{text}' is no amount of memory", where="--fit", valid="such as 24GB or 16GiB")
    number, letter, binary = match.groups()
    size = int(float(number) * UNITS[f"{letter.upper()}{'i' if binary else ''}B"])
    if size <= OTHERS:
        raise UsageError(f"{text} is less than driver and libraries take", where="--fit", valid="1GB or more")
    return size


def find_fit(loaded: LoadedRecipe, as_it_is: Measured, size: int) -> Fit:
    """What makes the training of ``loaded`` fit into ``size`` bytes; as_it_is: its account without any change."""
    limit, settings, tried = size - OTHERS, list[str](), list[Tried]()
    fallback: list[str] | None = None
    for step in ("", *(step for step in STEPS if not there(loaded, step))):
        wanted = [*settings, step] if step else []
        try:
            changed = load_recipe(loaded, wanted)
            found = measured(changed, as_it_is.processes) if step else as_it_is
        except LorakitError as error:
            tried.append(Tried(wanted, None, False, error.problems[0].what))
            continue
        settings = wanted
        parts, rows, footprint = largest_parts(changed, found, limit)
        whole, fits = [*settings, *parts], footprint.total <= limit
        tried.append(Tried(whole, footprint.total, fits))
        if fits and rows * ENOUGH >= found.rows_at_once(changed.recipe):
            return Fit(limit, tried, whole)
        fallback = whole if fits and fallback is None else fallback
    return Fit(limit, tried, fallback)


def there(loaded: LoadedRecipe, step: str) -> bool:
    """Whether the recipe has it already."""
    recipe = loaded.recipe
    return {
        "training.gradient_checkpointing=true": recipe.training.gradient_checkpointing,
        "training.precision=bf16": recipe.training.precision != "fp32" or recipe.model.dtype != "float32",
        "model.dtype=bfloat16": recipe.model.dtype != "float32",
        "model.quantization=nf4": recipe.model.quantization != "none",
    }[step]


def measured(loaded: LoadedRecipe, fsdp: int = 1) -> Measured:
    """The account of a training's memory, on its real model, of one of so many processes that share it out."""
    with loaded.locating_errors():
        if fsdp > 1:
            check_sharding(loaded.recipe)
        parts = assemble(loaded)
        adapted = adapt(parts, statistics=None)
        drop_unused_work(parts, adapted)
        return measure(parts, adapted, fsdp)


def largest_parts(loaded: LoadedRecipe, found: Measured, limit: int) -> tuple[Sequence[str], int, Footprint]:
    """The settings for the largest parts of a batch, and of an evaluation's, that fit, else of one row; the rows of a part; the peak."""
    recipe = loaded.recipe
    rows, evaluated = found.rows_at_once(recipe), recipe.evaluation.batch_size
    smaller = [rows] if passed_whole(recipe) else halves(rows)
    part = next((number for number in smaller if found.at(number, 0).total <= limit), smaller[-1])
    scored = next((number for number in halves(evaluated) if found.at(0, number).total <= limit), 1)
    settings = [f"training.micro_tokens={part * found.tokens}"] if part < rows else []
    settings += [f"evaluation.batch_size={scored}"] if scored < evaluated else []
    return settings, part, found.at(part, scored)


def halves(rows: int) -> list[int]:
    """``rows``, half as many, and so on, to 1."""
    return [rows >> shift for shift in range(rows.bit_length())]
