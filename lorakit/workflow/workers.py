"""Training what a comparison still misses: one of several workers that may share a folder; each run is trained by one of them."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.lock import Worker, claimed
from lorakit.errors import Interrupted, LorakitError
from lorakit.training.checkpoint import all_checkpoints, intact
from lorakit.training.hooks import Hook
from lorakit.workflow.building import Result, talk
from lorakit.workflow.running import train
from lorakit.workflow.sides import Entry

POLL = 5.0  # seconds between looks at a run that another worker trains

Watch = Callable[[], AbstractContextManager[Hook]]


def unwatched() -> AbstractContextManager[Hook]:
    """A context that shows nothing."""
    return nullcontext(Hook())


@dataclass(frozen=True)
class Missing(Result):
    """A run that is not there, and why."""

    run: str
    why: str


def train_missing(
    wanted: Sequence[Entry], total: int, watch: Watch, *, wait: bool, again: str
) -> tuple[list[Missing], list[Missing]]:
    """Train every run of ``wanted``, or see it trained by another worker: those that failed, and those that others still train.

    A run that fails does not stop the others. total: runs of the whole comparison; watch: makes what shows a training's progress;
    wait: for the runs of other workers, so that none is left to them; again: the command that goes on. Raises Interrupted where the
    person stops it: what is done is kept.
    """
    pending, failed = list(wanted), list[Missing]()
    found, held = dict[Path, Worker](), dict[Path, Worker]()
    try:
        while pending:
            before, found = len(pending), dict[Path, Worker]()
            for entry in list(pending):
                path = entry.run.path
                with claimed(path.with_name(f"{path.name}.lock")) as lock:
                    if lock.held_by:
                        found[path] = lock.held_by
                        continue
                    if lock.left_by:
                        talk.warning("%s: taken over from %s, which is no more", path, lock.left_by)
                    pending.remove(entry)
                    try:
                        train_one(entry, f"run {total - len(pending)} of {total}", watch)
                    except Interrupted:
                        raise
                    except LorakitError as error:
                        failed.append(Missing(str(path), str(error)))
                    except Exception as error:  # whatever goes wrong in one training, the others can go on
                        failed.append(Missing(str(path), f"{type(error).__name__}: {error}"))
                        talk.error("%s", traceback.format_exc())
            if len(pending) == before:
                if not wait:
                    break
                for path in found.keys() - held.keys():
                    talk.info(
                        "%s is being trained by %s: waiting. (If that is no more, delete %s.lock)",
                        path,
                        found[path],
                        path,
                    )
                held = found
                time.sleep(POLL)
    except Interrupted as error:
        raise Interrupted(f"{error.problems[0].what}; finished runs are kept", hint=again) from None
    except KeyboardInterrupt:
        raise Interrupted("stopped; finished runs are kept", hint=again) from None
    return failed, [
        Missing(str(entry.run.path), f"another worker trains it: {found[entry.run.path]}") for entry in pending
    ]


def attempt(entry: Entry, place: str, watch: Watch) -> str:
    """Train a run; why it failed, where it did. Whatever goes wrong in one training, the others can go on."""
    try:
        train_one(entry, place, watch)
    except Interrupted:
        raise
    except LorakitError as error:
        why = str(error)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        talk.error("%s", traceback.format_exc())
    else:
        return ""
    talk.error("%s failed: %s", entry.run.path, why)
    return why


def train_one(entry: Entry, place: str, watch: Watch) -> None:
    """Train a run that is ours, or go on with it, unless another worker has finished it meanwhile."""
    run = entry.run
    entry.check_same_recipe()
    if run.finished or entry.loaded is None:
        return
    begun = run.recipe.is_file()
    if begun and not any(intact(path) for path in all_checkpoints(run.checkpoints)):
        talk.info("%s was stopped before its first checkpoint: it is trained anew", run.path)
        shutil.rmtree(run.path)
        begun = False
    name, seed = entry.loaded.recipe.run.name, entry.seed
    talk.info("%s: %s, seed %d%s", place, name, seed, ", from its newest checkpoint" if begun else "")
    with watch() as hook:
        train(entry.loaded, run_dir=run.path, resume=begun, hooks=[hook])
