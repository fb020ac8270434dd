"""Trials that workers share: how many, which values, and what a failure, a Ctrl-C or a killed worker leaves behind."""

import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="optional")

from lorakit.artifacts import lock
from lorakit.errors import Interrupted, RunError, UsageError
from lorakit.workflow.experiments import optuna_trials as sampling
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.grid import read_space
from lorakit.workflow.experiments.optuna_trials import DEATHS, FAILURES, Sampling
from lorakit.workflow.experiments.totals import ComparedRun

VARYING = ("training.lr=1e-5..1e-3", "adapter.rank=2..8", "adapter.method=lora,dora")


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path: Path) -> str:
    return str(tmp_path / "study.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "study.journal")


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(workers, "POLL", 0.02)


def score(point) -> float:
    """Best at a rate of 1e-4 and rank 8."""
    return -abs(math.log10(point.values["training.lr"]) + 4) - (8 - point.values["adapter.rank"]) / 10


def trained(point, shown, watched=None) -> list[ComparedRun]:
    """In place of two trainings."""
    return [
        ComparedRun(seed, "run", {"f1": score(point) + gap}, {"f1": 0.0}, 8, 8, 2, 8, 1.0, 2.0, 0.0)
        for seed, gap in ((0, 0.25), (1, 0.75))
    ]


def sample(storage: str, wanted: int, train=trained, *, wait: bool = True, **changes):
    asked = {"seeds": [0, 1], "task.name": "sst2"}
    settings = {
        "space": read_space(VARYING),
        "name": "study",
        "folder": Path(storage.removeprefix("sqlite:///")).parent,
        "seed": 0,
        "metric": "f1",
        "rises": True,
        "asked": asked,
    }
    return Sampling(**(settings | {"storage": storage, "wanted": wanted, "train": train} | changes)).run(
        wait=wait, again="lorakit sweep x"
    )


def test_values_are_drawn_from_their_ranges_and_scored_by_the_mean_over_seeds(storage):
    trials = sample(storage, 4)
    assert [(trial.number, trial.state) for trial in trials] == [(n, "finished") for n in range(4)]
    for trial in trials:
        lr, rank = trial.settings["training.lr"], trial.settings["adapter.rank"]
        assert 1e-5 <= lr <= 1e-3
        assert lr == float(f"{lr:.4g}")
        assert rank in range(2, 9)
        assert type(rank) is int
        assert trial.settings["adapter.method"] in ("lora", "dora")
        assert trial.value == pytest.approx(-abs(math.log10(lr) + 4) - (8 - rank) / 10 + 0.5)
        assert trial.name == f"study-method{trial.settings['adapter.method']}-lr{lr}-rank{rank}"
        assert [run.seed for run in trial.runs] == [0, 1]
    assert len({trial.name for trial in trials}) == 4
    assert sample(storage, 4, train=None) == trials  # nothing is left to train
    assert sample(storage, 5)[:4] == trials


def test_one_worker_draws_the_same_again_and_another_seed_others(tmp_path):
    first, again = (sample(str(tmp_path / name), 3) for name in ("a", "b"))
    assert [trial.settings for trial in first] == [trial.settings for trial in again]
    other = sample(str(tmp_path / "c"), 3, seed=1)
    assert [trial.settings for trial in first] != [trial.settings for trial in other]


@pytest.mark.parametrize("rises", [True, False])
def test_what_was_good_is_drawn_from(journal, rises):
    trials = sample(journal, 20, rises=rises)  # of which the first 10 are drawn anywhere
    early, late = (sum(trial.value for trial in part) / 10 for part in (trials[:10], trials[10:]))
    assert (late > early) is rises


def test_a_failed_trial_is_tried_again_with_its_values_and_stays_failed_in_the_end(storage):
    tried = []

    def fail(point, shown, watched=None):
        tried.append(point)
        if len(tried) in (1, 3, 4):  # the first trial once, the next one always
            raise RunError("the loss is nan")
        return trained(point, shown)

    trials = sample(storage, 2, fail)
    assert FAILURES == 1
    assert [trial.state for trial in trials] == ["retried", "finished", "retried", "failed"]
    assert trials[0].settings == trials[1].settings
    assert trials[2].settings == trials[3].settings
    assert (trials[0].why, trials[1].why, trials[3].why) == ("the loss is nan", "", "the loss is nan")


def test_a_fault_of_the_program_is_no_failed_trial(journal):
    def break_down(point, shown, watched=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sample(journal, 1, break_down)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped after step 2 of 9")])
def test_a_stopped_trial_goes_on_with_its_values(journal, stop):
    met = []

    def stopped(point, shown, watched=None):
        met.append(point)
        raise stop

    with pytest.raises(Interrupted, match="finished runs are kept") as caught:
        sample(journal, 1, stopped)
    assert caught.value.problems[0].hint == "lorakit sweep x"
    first, second = sample(journal, 1)
    assert (first.state, second.state) == ("retried", "finished")
    assert second.settings == met[0].values


def test_another_sweep_in_the_same_study_is_refused(journal):
    sample(journal, 1)
    with pytest.raises(UsageError, match=r"is of another sweep; it differs in seeds, adapter\.dropout"):
        sample(journal, 1, asked={"seeds": [0], "task.name": "sst2", "adapter.dropout": 0.1})


@pytest.mark.parametrize("storage", ["nosuch://x", "sqlite:////nowhere/at/all.db", "postgresql://localhost:1/x"])
def test_a_storage_that_cannot_be_used_is_one_message(storage):
    with pytest.raises(UsageError, match=r"cannot be used as a storage: .*\n *valid: a database's URL"):
        sample(storage, 1)


def begin(storage, results, meet, doomed, held) -> None:
    """A worker; a doomed one is killed in the middle of its first trial."""

    def train(point, shown, watched=None):
        meet.wait()
        if doomed:
            held.put(point.values)
            held.close()
            held.join_thread()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return trained(point, shown)

    first = []

    def meet_once(point, shown, watched=None):
        if first:
            return trained(point, shown)
        first.append(point)
        return train(point, shown)

    results.put([(trial.number, trial.state, trial.settings) for trial in sample(storage, 6, meet_once)])


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("doomed", [False, True])
def test_two_workers_share_the_trials_and_lose_nothing_when_one_is_killed(storage, doomed):
    context = multiprocessing.get_context("fork")
    results, held, meet = context.Queue(), context.Queue(), context.Barrier(2, timeout=30)
    two = [context.Process(target=begin, args=(storage, results, meet, lost, held)) for lost in (doomed, False)]
    for worker in two:
        worker.start()
    told = [results.get(timeout=30) for _ in range(1 if doomed else 2)]
    for worker in two:
        worker.join(60)
    assert [worker.exitcode for worker in two] == [-signal.SIGKILL if doomed else 0, 0]
    trials = told[0]
    assert [state for _, state, _ in trials].count("finished") == 6  # neither more nor fewer
    if doomed:
        lost = held.get(timeout=10)
        assert [settings for _, state, settings in trials if state == "retried"] == [lost]
        assert lost in [settings for _, state, settings in trials if state == "finished"]
    else:
        assert told[0] == told[1]
        drawn = [settings["training.lr"] for _, _, settings in trials]
        assert len(set(drawn)) == 6


def test_a_trial_that_kills_its_workers_is_given_up(journal):
    context = multiprocessing.get_context("fork")

    def die() -> None:
        sample(journal, 1, lambda point, shown, watched: os.kill(os.getpid(), signal.SIGKILL))

    for _ in range(DEATHS + 1):
        worker = context.Process(target=die)
        worker.start()
        worker.join(60)
    trials = sample(journal, 1, train=None)
    assert [trial.state for trial in trials] == ["retried"] * DEATHS + ["failed"]
    assert trials[-1].why == "its worker died"


def test_without_waiting_another_workers_trial_is_left_to_it(journal):
    others = []

    def look(point, shown, watched=None):
        others.extend(sample(journal, 1, train=None, wait=False))
        return trained(point, shown)

    sample(journal, 1, look)
    assert [trial.state for trial in others] == ["running"]
    assert others[0].worker.startswith(f"process {os.getpid()} on ")


def test_the_lock_of_a_trial_tells_of_a_worker_of_another_host_that_died(journal, monkeypatch):
    """There the process cannot be looked for: its signs of life stay out."""
    context = multiprocessing.get_context("fork")

    def die() -> None:
        sample(journal, 1, lambda point, shown, watched: os.kill(os.getpid(), signal.SIGKILL))

    worker = context.Process(target=die)
    worker.start()
    worker.join(60)
    monkeypatch.setattr(lock.Worker, "near", False)
    monkeypatch.setattr(lock, "SILENCE", 0.2)
    began = time.monotonic()
    first, second = sample(journal, 1)
    assert time.monotonic() - began > 0.2
    assert (first.state, second.state) == ("retried", "finished")
    assert first.settings == second.settings
    assert list(Path(journal).parent.glob("*.lock")) == []


def test_a_trial_of_a_live_worker_of_another_host_is_left_to_it(journal, monkeypatch):
    monkeypatch.setattr(lock.Worker, "near", False)
    monkeypatch.setattr(lock, "SILENCE", 0.3)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    told = []

    def look(point, shown, watched):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            told.extend(sample(journal, 1, train=None, wait=False))
            time.sleep(0.05)
        return trained(point, shown)

    (only,) = sample(journal, 1, look)
    assert only.state == "finished"
    assert {trial.state for trial in told} == {"running"}


@pytest.mark.slow
def test_a_database_hears_of_a_worker_of_another_host_that_died(tmp_path, monkeypatch):
    """There the process cannot be looked for: its heartbeat stays out."""
    monkeypatch.setattr(sampling, "BEAT", 1)
    monkeypatch.setattr(sampling, "SILENCE", 1)
    storage = f"sqlite:///{tmp_path}/study.db"
    context = multiprocessing.get_context("fork")

    def die() -> None:
        sample(storage, 1, lambda point, shown, watched: os.kill(os.getpid(), signal.SIGKILL))

    worker = context.Process(target=die)
    worker.start()
    worker.join(60)
    monkeypatch.setattr(sampling.Worker, "dead", False)
    time.sleep(2.1)
    first, second = sample(storage, 1)
    assert (first.state, second.state) == ("retried", "finished")
    assert first.settings == second.settings
