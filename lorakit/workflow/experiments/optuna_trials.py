"""The trials of ``lorakit sweep --trials``: an Optuna study that workers share, and that goes on where it was left.

A trial is one point with a run per seed. Each is some worker's, which it names; trials of workers that are no more are failed and
queued anew with the same values, so that their runs go on from their checkpoints. On this host that is seen at once; of other hosts
the trial's lock tells, whose signs of life stay out, or a database, where a heartbeat does. Imported only where trials are asked for:
Optuna is optional.
"""

from __future__ import annotations

import json
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, TrialPruned, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lorakit.artifacts.lock import Worker, claimed
from lorakit.errors import Interrupted, LorakitError, RunError, UsageError
from lorakit.result import Result
from lorakit.training.seeds import derive_seed
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.grid import Point, Space
from lorakit.workflow.experiments.pruning import Watched, pruner_for, without_rungs
from lorakit.workflow.experiments.ranking import Reached
from lorakit.workflow.experiments.totals import ComparedRun

logger = logging.getLogger(__name__)

BEAT, SILENCE = 60, 180  # seconds between a worker's signs of life in a database, and after which it counts as dead
NAMELESS = timedelta(minutes=1)  # a trial that has named no worker by then lost it before it could
PATIENCE = (0.1, 0.2, 0.4)  # seconds, up to twice that, before another try to open a storage
LOCKED = 60  # seconds that a worker waits for its turn in an SQLite file
EVALUATIONS = "evaluations"  # of a training that goes to its end, as they were when the study began
FAILURES, DEATHS = 1, 5  # how often a trial is tried again after its training failed, and after its worker died

Train = Callable[[Point, str, Watched | None], Sequence[ComparedRun]]


class Failed(Exception):
    """A run of the trial could not be trained."""


class Surplus(Exception):
    """Another worker began the last trial that was wanted at the same time."""


@dataclass(frozen=True)
class Trial(Result):
    """One trial. state: finished, failed, retried (failed, and queued anew), pruned, running or waiting; value: the mean metric; reached:
    how far it came where it was pruned; scores: of the first seed at every evaluation, where trials may be pruned.
    """

    number: int
    state: str
    name: str
    settings: dict[str, Any]
    value: float | None
    why: str
    worker: str
    runs: list[ComparedRun]
    reached: Reached | None = None
    scores: list[float] = field(default_factory=list)


@dataclass
class Sampling:
    """The study of one sweep, and this worker's part in it.

    folder: of the runs, and of the trials' locks; wanted: trials in all; asked: what the study is of, as JSON: another one is refused;
    train: trains a point's runs, or sees them trained, and raises LorakitError where one fails; prune: the rule by which trials that fall
    behind end early (`pruning`); evaluations: how often a training is scored that goes to its end.
    """

    space: Space
    name: str
    storage: str
    folder: Path
    wanted: int
    seed: int
    metric: str
    rises: bool
    asked: Mapping[str, Any]
    train: Train
    prune: str | None = None
    evaluations: int = 1

    def run(self, *, wait: bool, again: str) -> list[Trial]:
        """Sample and train until there are as many trials as wanted, by all workers together; all that the study has then."""
        with quietly(), workers.stoppable(again):
            study = self.open()
            try:
                self.take_part(study, wait=wait)
                return trials_of(study)
            except StorageInternalError as error:
                what = f"the study cannot be read or written: {first_line(error.__cause__ or error)}"
                raise RunError(what, where=self.storage, hint=again) from error

    def complete(self) -> bool:
        """Whether all trials that are wanted are there, and done."""
        with quietly():
            trials = self.open().get_trials(deepcopy=False)
            return begun(trials) >= self.wanted and all(trial.state.is_finished() for trial in trials)

    def known(self) -> list[Trial]:
        """What the study has now."""
        with quietly():
            return trials_of(self.open())

    def take_part(self, study: optuna.Study, *, wait: bool) -> None:
        """Train trials while some are wanting; then see those of other workers to their end, if we ``wait`` for them."""
        told = False
        while True:
            self.rescue(study)
            known = study.get_trials(deepcopy=False)
            if begun(known) < self.wanted or any(trial.state == TrialState.WAITING for trial in known):
                self.one_trial(study)
                continue
            if not wait or not any(trial.state == TrialState.RUNNING for trial in known):
                return
            if not told:
                logger.info("the last trials are being trained by other workers: waiting")
            told = True
            time.sleep(workers.POLL)

    def open(self) -> optuna.Study:
        """The study, begun where there is none. UsageError for a storage that cannot be used, or a study of another sweep."""
        study = self.create()
        asked = json.loads(json.dumps(self.asked))
        there = study.user_attrs.get("asked")
        if there is None:
            study.set_user_attr("asked", asked)
        elif changed := [key for key in {**there, **asked} if there.get(key) != asked.get(key)]:
            raise UsageError(
                f"the study '{self.name}' in this storage is of another sweep; it differs in {', '.join(changed)}",
                where=f"--storage {self.storage}",
                hint="another --storage, or another --folder where none is given",
            )
        if EVALUATIONS not in study.user_attrs:
            study.set_user_attr(EVALUATIONS, self.evaluations)
        study.pruner = pruner_for(self.prune, study.user_attrs[EVALUATIONS])
        return study

    def create(self) -> optuna.Study:
        """The study as the storage has it. Of several workers that make a new database at once all but one fail: they look again."""
        for patience in PATIENCE:
            with suppress(Exception):
                return self.created()
            time.sleep(patience * (1 + random.random()))
        try:
            return self.created()
        except Exception as error:  # of whatever database driver
            valid = "a database's URL, such as sqlite:///FILE, or a journal file"
            what = f"cannot be used as a storage: {first_line(error)}"
            raise UsageError(what, where=f"--storage {self.storage}", valid=valid) from error

    def created(self) -> optuna.Study:
        """One try at that."""
        return optuna.create_study(
            storage=open_storage(self.storage),
            sampler=Numbered(self.seed),
            study_name=self.name,
            direction="maximize" if self.rises else "minimize",
            load_if_exists=True,
        )

    def one_trial(self, study: optuna.Study) -> None:
        """Train a trial that was queued, or a new one. One that the person stops is queued anew, to go on from its checkpoint."""
        mine: list[int] = []
        held = ExitStack()

        def objective(trial: optuna.Trial) -> float:
            mine.append(trial.number)
            held.enter_context(claimed(self.lock(trial.number)))
            return self.objective(trial)

        try:
            with held:
                study.optimize(objective, n_trials=1, catch=(Failed, Surplus), callbacks=[retry_failed])
        except (Interrupted, KeyboardInterrupt):
            for number in mine:
                queue_anew(study, study.get_trials(deepcopy=False)[number])
            raise
        except (ValueError, UpdateFinishedTrialError):
            if not set(mine) & tried_again(study.get_trials(deepcopy=False)):
                raise
            logger.warning(
                "trial %d: another worker took this process for dead, and has queued the trial again", mine[0] + 1
            )

    def objective(self, trial: optuna.Trial) -> float:
        """The mean of the metric over the seeds, after the last epoch."""
        trial.set_user_attr("worker", asdict(Worker.this()))
        if self.surplus(trial):
            trial.set_user_attr("surplus", True)
            raise Surplus
        point = self.suggested(trial)
        trial.set_user_attr("settings", point.values)
        trial.set_user_attr("name", point.named(self.name))
        shown = f"trial {trial.number + 1}: {' '.join(point.overrides)}"
        watched = Watched(trial, self.metric) if self.prune else None
        try:
            runs = self.train(point, shown, watched)
        except workers.GivenUp as told:
            logger.info("trial %d is pruned: %s", trial.number + 1, told)
            raise TrialPruned from None
        except Interrupted:
            raise
        except LorakitError as error:
            trial.set_user_attr("why", str(error))
            raise Failed from error
        trial.set_user_attr("runs", [run.to_dict() for run in runs])
        return fmean(run.last[self.metric] for run in runs)

    def suggested(self, trial: optuna.Trial) -> Point:
        """The point of a trial: drawn, or as it was in the trial that this one tries again."""
        chosen: dict[str, tuple[str, Any]] = {}
        for axis in self.space.axes:
            text = trial.suggest_categorical(axis.key, axis.texts)
            chosen[axis.key] = (text, axis.values[axis.texts.index(text)])
        for span in self.space.ranges:
            if span.whole:
                drawn: float = trial.suggest_int(span.key, int(span.low), int(span.high), log=span.log)
            else:
                drawn = trial.suggest_float(span.key, span.low, span.high, log=span.log)
            value = span.rounded(drawn)
            chosen[span.key] = (str(value), value)
        return self.space.point(chosen)

    def surplus(self, trial: optuna.Trial) -> bool:
        """Whether as many trials as wanted have lower numbers, which the storage gives out one by one."""
        if RetryHeartbeatStaleTrialCallback.retried_trial_number(frozen(trial)) is not None:
            return False
        return begun(trial.study.get_trials(deepcopy=False)[: trial.number]) >= self.wanted

    def rescue(self, study: optuna.Study) -> None:
        """Fail the trials whose workers are no more, and queue them anew."""
        fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            with self.deserted(trial) as gone:
                if not gone:
                    continue
                try:
                    study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, UpdateFinishedTrialError):  # another worker was first
                    continue
            logger.warning(
                "trial %d: taken over from %s, which has ended", trial.number + 1, named(trial) or "a worker"
            )
            queue_anew(study, trial, DEATHS)

    @contextmanager
    def deserted(self, trial: FrozenTrial) -> Iterator[bool]:
        """Whether the worker of a running trial is no more. One elsewhere left a lock, which is ours within the block."""
        named = trial.user_attrs.get("worker")
        if named is None:
            yield trial.datetime_start is not None and datetime.now() - trial.datetime_start > NAMELESS
        elif Worker(**named).near or not self.lock(trial.number).exists():
            yield Worker(**named).dead
        else:
            with claimed(self.lock(trial.number)) as lock:
                yield lock.left_by is not None

    def lock(self, number: int) -> Path:
        """The lock of a trial while a worker has it."""
        return self.folder / f"trial-{number}.lock"


class Numbered(BaseSampler):
    """TPE whose draws depend on the trial's number and on the trials before alone: several workers never draw the same, and one worker
    draws the same again.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def tpe(self, trial: FrozenTrial, name: str = "") -> TPESampler:
        """A fresh sampler with the seed of this trial, or of one of its values."""
        return TPESampler(seed=derive_seed(self.seed, f"sweep/{trial.number}/{name}") % 2**32)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE does."""
        return self.tpe(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self.tpe(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE does."""
        return self.tpe(trial, param_name).sample_independent(study, trial, param_name, param_distribution)


@contextmanager
def quietly() -> Iterator[None]:
    """A block in which Optuna says errors alone, and not that what is used here may change."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def open_storage(storage: str) -> BaseStorage:
    """A database by its URL, with heartbeats; anything else is a journal file."""
    if "://" in storage:
        again = partial(queue_anew, most=DEATHS)
        return RDBStorage(storage, heartbeat_interval=BEAT, grace_period=SILENCE, heartbeat_stale_trial_callback=again)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


def first_line(error: BaseException) -> str:
    """What an error says first; the rest is SQL."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def begun(trials: Sequence[FrozenTrial]) -> int:
    """The trials that count: not those that try another one again, nor those that were one too many."""
    again = RetryHeartbeatStaleTrialCallback.retried_trial_number
    return sum(again(trial) is None and not trial.user_attrs.get("surplus") for trial in trials)


def retry_failed(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial anew whose training failed."""
    if trial.state == TrialState.FAIL and not trial.user_attrs.get("surplus"):
        queue_anew(study, trial, FAILURES)


def queue_anew(study: optuna.Study, trial: FrozenTrial, most: int | None = None) -> None:
    """A new trial with the values of ``trial`` and nothing else of it, unless it was tried again ``most`` times already."""
    bare = deepcopy(trial)
    bare.user_attrs, bare.system_attrs = {}, without_rungs(bare.system_attrs)
    RetryHeartbeatStaleTrialCallback(max_retry=most)(study, bare)


def tried_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of those whose values a later trial has."""
    return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


def trials_of(study: optuna.Study) -> list[Trial]:
    """All trials of the study but those that were one too many, in their order."""
    known = study.get_trials(deepcopy=False)
    again = tried_again(known)
    return [
        Trial(
            number=trial.number,
            state=state_of(trial, again=trial.number in again),
            name=trial.user_attrs.get("name", ""),
            settings=trial.user_attrs.get("settings", {}),
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            why=trial.user_attrs.get("why", "its worker died" if trial.state == TrialState.FAIL else ""),
            worker=named(trial),
            runs=[ComparedRun(**run) for run in trial.user_attrs.get("runs", [])],
            reached=Reached(**trial.user_attrs["reached"]) if trial.state == TrialState.PRUNED else None,
            scores=[score for _, score in sorted(trial.intermediate_values.items())],
        )
        for trial in known
        if not trial.user_attrs.get("surplus")
    ]


def state_of(trial: FrozenTrial, *, again: bool) -> str:
    """A word for the trial's state. again: whether another trial has its values and tries them again."""
    if trial.state == TrialState.FAIL:
        return "retried" if again else "failed"
    return "finished" if trial.state == TrialState.COMPLETE else trial.state.name.lower()


def named(trial: FrozenTrial) -> str:
    """Who trains it, or did."""
    worker = trial.user_attrs.get("worker")
    return str(Worker(**worker)) if worker else ""


def frozen(trial: optuna.Trial) -> FrozenTrial:
    """The trial as the storage has it."""
    return trial.study.get_trials(deepcopy=False)[trial.number]
