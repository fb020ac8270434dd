"""Training the runs that are still missing: one of several workers that may share a folder; each run is trained by one of them."""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.lock import Worker, claimed
from lorakit.artifacts.standing import all_checkpoints
from lorakit.errors import Interrupted, LorakitError, Problem, RunError
from lorakit.result import Result
from lorakit.training.checkpoint import intact
from lorakit.training.hooks import Hook
from lorakit.workflow.experiments.arms import Entry
from lorakit.workflow.experiments.request import Watch
from lorakit.workflow.train import train

logger = logging.getLogger(__name__)

POLL = 5.0  # seconds between looks at a run that another worker trains
KEPT = "; finished runs are kept"

Beside = Callable[[Entry], Sequence[Hook]]  # further hooks of a run's training


class GivenUp(Exception):
    """A hook has ended a training for good, which has neither failed nor finished: whoever gave the hook catches this."""


def nobody(entry: Entry) -> Sequence[Hook]:
    """No further hooks."""
    return ()


@dataclass(frozen=True)
class Missing(Result):
    """A run that is not there, and why."""

    run: str
    why: str


def train_missing(
    wanted: Sequence[Entry], total: int, watch: Watch, *, wait: bool, again: str, beside: Beside = nobody
) -> tuple[list[Missing], list[Missing]]:
    """Train every run of ``wanted``, or see it trained by another worker: those that failed, and those that others still train.

    A run that fails does not stop the others. total: runs there are in all; watch: makes what shows a training's progress; wait: for
    the runs of other workers, so that none is left to them; again: the command that goes on; beside: gives a run's further hooks. Raises
    Interrupted where the person stops it: what is done is kept.
    """
    pending, failed = list(wanted), list[Missing]()
    found, held = dict[Path, Worker](), dict[Path, Worker]()
    with stoppable(again):
        while pending:
            before, found = len(pending), dict[Path, Worker]()
            for entry in list(pending):
                path = entry.run.path
                with claimed(path.with_name(f"{path.name}.lock")) as lock:
                    if lock.held_by:
                        found[path] = lock.held_by
                        continue
                    if lock.left_by:
                        logger.warning("%s: taken over from %s, which has ended", path, lock.left_by)
                    pending.remove(entry)
                    if why := attempt(entry, f"run {total - len(pending)} of {total}", watch, beside):
                        failed.append(Missing(str(path), why))
            if len(pending) == before:
                if not wait:
                    break
                for path in found.keys() - held.keys():
                    logger.info(
                        "%s is being trained by %s: waiting. (Where that process has ended, delete %s.lock)",
                        path,
                        found[path],
                        path,
                    )
                held = found
                time.sleep(POLL)
    return failed, [
        Missing(str(entry.run.path), f"another worker trains it: {found[entry.run.path]}") for entry in pending
    ]


def no_finished_run(failed: Sequence[Missing], folder: Path) -> RunError:
    """What to raise where there is nothing to tell: why the runs failed, where any did."""
    return RunError(failures(failed) or Problem("no run is finished yet", where=str(folder)))


def failures(failed: Sequence[Missing]) -> list[Problem]:
    """Why each run failed."""
    return [Problem(lost.why, where=lost.run) for lost in failed]


@contextmanager
def stoppable(again: str) -> Iterator[None]:
    """A block that the person may stop: Interrupted then says what is kept, and ``again``, the command that goes on."""
    try:
        yield
    except Interrupted as error:
        what = error.problems[0].what.removesuffix(KEPT)
        raise Interrupted(what + KEPT, hint=again) from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped{KEPT}", hint=again) from None


def attempt(entry: Entry, place: str, watch: Watch, beside: Beside) -> str:
    """Train a run; why it failed, where it did. Whatever goes wrong in one training, the others can go on."""
    try:
        train_one(entry, place, watch, beside)
    except (Interrupted, GivenUp):
        raise
    except LorakitError as error:
        why = str(error)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        logger.error("%s", traceback.format_exc())
    else:
        return ""
    logger.error("%s failed: %s", entry.run.path, why)
    return why


def train_one(entry: Entry, place: str, watch: Watch, beside: Beside) -> None:
    """Train a run that is ours, or go on with it, unless another worker has finished it meanwhile."""
    run = entry.run
    entry.check_same_recipe()
    if run.finished or entry.loaded is None:
        return
    begun = run.recipe.is_file()
    if begun and not any(intact(path) for path in all_checkpoints(run.checkpoints)):
        logger.info("%s was stopped before its first checkpoint: it is trained anew", run.path)
        shutil.rmtree(run.path)
        begun = False
    name, seed = entry.loaded.recipe.run.name, entry.seed
    logger.info("%s: %s, seed %d%s", place, name, seed, ", from its newest checkpoint" if begun else "")
    with watch() as hook:
        train(entry.loaded, run_dir=run.path, resume=begun, hooks=[hook, *beside(entry)])
