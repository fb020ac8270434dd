"""Kill and resume: a training that is killed, and goes on, must end with the bytes of one that nothing happened to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import read_json, read_jsonl, remove_folder
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import STATE, all_checkpoints
from lorakit.errors import RunError
from lorakit.recipe.load import LoadedRecipe
from lorakit.result import Result
from lorakit.searching.allocator import comes_before_training
from lorakit.training.checkpoint import intact
from lorakit.workflow.doctor.faults import REFUSED, Kill, run_process
from lorakit.workflow.glora.evolve import RESULT

# STATE: its sum in a checkpoint, because the seconds are in it.
NEVER_THE_SAME = (
    "seconds",
    "search_seconds",
    "rate_seconds",
    "supernet_seconds",
    "run_dir",
    "folder",
    "found",
    "emitted",
    STATE,
)
"""Keys of what a run writes that tell times, and the run's own place."""
OF_THE_MACHINE = ("environment.json", "report", "merged")


@dataclass(frozen=True)
class Crash(Result):
    """A kill that came: what was planned, where it met the process, and whether there was something whole to go on from."""

    kill: Kill
    where: str
    resumable: bool


def crash_and_resume(loaded: LoadedRecipe, folder: Path, kills: Sequence[Kill]) -> list[Crash]:
    """Train into ``folder`` to the end, killed by each of ``kills`` in turn and resumed; a kill whose point never comes is no crash.

    Where a kill came before anything could be resumed, resuming must be refused, and the training is begun anew. RunError where a
    process fails, or where resuming is refused with a checkpoint there.
    """
    crashes: list[Crash] = []
    resume, left = False, list(kills)
    while True:
        kill = left[0] if left else None
        ended = run_process(loaded, folder, resume=resume, kill=kill)
        if kill and ended.killed:
            left.pop(0)
            crashes.append(Crash(kill, ended.where, resumable(loaded, folder)))
            if finished(loaded, folder):
                break
            resume = True
        elif ended.code == 0:
            break
        elif ended.code == REFUSED and resume and not crashes[-1].resumable:
            remove_folder(folder)
            resume = False
        else:
            raise RunError(f"the process ended with code {ended.code}: {ended.said}", where=str(folder))
    return crashes


def finished(loaded: LoadedRecipe, folder: Path) -> bool:
    """Whether everything is written: a process may still be killed after that."""
    return (folder / RESULT).exists() if comes_before_training(loaded.recipe.search) else Run(folder).finished


def resumable(loaded: LoadedRecipe, folder: Path) -> bool:
    """Whether there is something to go on from: a whole checkpoint, or a search that has begun."""
    run = Run(folder)
    if comes_before_training(loaded.recipe.search):
        return run.recipe.exists()
    return run.recipe.exists() and any(intact(path) for path in all_checkpoints(run.checkpoints))


def outcome(folder: Path) -> dict[str, Any]:
    """File -> content, of all that a run or a search wrote: bytes of tensors, text, records without what cannot be the same twice."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or set(name.parts) & set(OF_THE_MACHINE):
            continue
        readers = {".json": read_json, ".jsonl": read_jsonl}
        content = readers[path.suffix](path) if path.suffix in readers else path.read_bytes()
        found[str(name)] = timeless(content)
    return found


def timeless(value: Any) -> Any:
    """``value`` without the keys that are never the same."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in NEVER_THE_SAME}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def differences(undisturbed: dict[str, Any], crashed: dict[str, Any]) -> list[str]:
    """What is not the same in two outcomes, a line each."""
    told = []
    for name in sorted({*undisturbed, *crashed}):
        if name not in crashed:
            told.append(f"{name} is missing")
        elif name not in undisturbed:
            told.append(f"{name} is left over")
        elif undisturbed[name] != crashed[name]:
            told.append(f"{name} differs: {first_difference(undisturbed[name], crashed[name])}")
    return told


def first_difference(ours: Any, theirs: Any) -> str:
    """Where two contents of one file part."""
    if isinstance(ours, bytes):
        return f"{len(ours):,} and {len(theirs):,} bytes"
    if isinstance(ours, dict):
        pairs = [(key, ours.get(key), theirs.get(key)) for key in {*ours, *theirs}]
    else:
        if len(ours) != len(theirs):
            return f"{len(ours)} and {len(theirs)} records"
        pairs = [(f"record {place}", *pair) for place, pair in enumerate(zip(ours, theirs, strict=True), 1)]
    key, one, other = next(pair for pair in pairs if pair[1] != pair[2])
    return f"{key}: {json.dumps(one)[:100]} and {json.dumps(other)[:100]}"
