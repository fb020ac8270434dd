"""Pruned trials: which ones end and when, as the paper's rule has it, after an interruption too, and what a sweep makes of them."""

from __future__ import annotations

import math
import multiprocessing
import random
import zlib
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("optuna", reason="optional")

from support.pretended import log, pretend

from lorakit.artifacts.files import write_text
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, UsageError
from lorakit.training.hooks import TrainState
from lorakit.workflow import train as running
from lorakit.workflow.experiments import workers
from lorakit.workflow.experiments.grid import read_space
from lorakit.workflow.experiments.optuna_trials import Sampling
from lorakit.workflow.experiments.ranking import Reached, SweptPoint, rank
from lorakit.workflow.experiments.sweep import plan_sweep, sweep
from lorakit.workflow.experiments.totals import ComparedRun

RATES = "training.lr=1e-5..1e-1"
PRUNED = {"trials": 4, "holdout": 0.2, "prune": "asha"}


def by_hand(sequences: list[list[float]], *, rises: bool, wait: int = 1) -> list[int]:
    """Evaluations that each trial is given: ASHA (Li et al. 2020) with eta = 3, where nobody waits; trials come one by one.

    wait: the first rung.
    """
    rungs: dict[int, list[float]] = {}
    given = []
    for scores in sequences:
        for evaluation in range(1, len(scores) + 1):
            if evaluation in (1, 3, 9, 27) and wait <= evaluation < len(scores):
                there = rungs.setdefault(evaluation, [])
                there.append(scores[evaluation - 1])
                best = sorted(there, reverse=rises)[: max(len(there) // 3, 1)]
                if scores[evaluation - 1] not in best:
                    break
        given.append(evaluation)
    return given


def by_brackets(sequences: list[list[float]], *, rises: bool) -> list[int]:
    """The same by Hyperband (Li et al. 2018, algorithm 1): brackets s, of which Optuna draws one by the study's name and the number."""
    number = int(math.log(len(sequences[0]) + 0.5, 3)) + 1
    shares = [math.ceil(number * 3 ** (number - 1 - s) / (number - s)) for s in range(number)]
    places = [s for s, share in enumerate(shares) for _ in range(share)]
    of = [places[zlib.crc32(f"study_{trial}".encode()) % len(places)] for trial in range(len(sequences))]
    given = {}
    for s in range(number):
        mine = [trial for trial, bracket in enumerate(of) if bracket == s]
        given |= dict(zip(mine, by_hand([sequences[t] for t in mine], rises=rises, wait=3**s), strict=True))
    return [given[trial] for trial in range(len(sequences))]


def evaluated(run: Run, scores: list[float], hooks, stop_after: int = 0) -> None:
    """In place of a training: writes its evaluations, those that are not there yet, and calls the hooks."""
    state = TrainState(total_steps=len(scores), steps_per_epoch=1)
    for number, score in enumerate(scores, start=1):
        if number <= len(run.metrics()):
            continue
        state.step = number
        run.append("metrics", {"step": number, "epoch": number / 2, "scores": {"f1": score, "accuracy": score}})
        for hook in hooks:
            hook.on_evaluation(state)
        if number == stop_after:
            raise KeyboardInterrupt
    run.write_summary({})


def sample(
    folder: Path,
    sequences: list[list[float]],
    *,
    rises: bool = True,
    stop: tuple[int, int] = (-1, 0),
    prune: str = "asha",
):
    """Trials, the n-th of which has the n-th sequence of scores; stop: a trial, and the evaluation after which it is interrupted."""
    order: list[dict] = []

    def train(point, shown, watched) -> list[ComparedRun]:
        if point.values not in order:
            order.append(point.values)
        number = order.index(point.values)
        run = Run(folder / f"run-{point.values['training.lr']}")
        run.path.mkdir(parents=True, exist_ok=True)
        watched.look(run)
        if not run.finished:
            evaluated(run, sequences[number], [watched], stop[1] if number == stop[0] else 0)
        last = {"f1": sequences[number][-1]}
        return [ComparedRun(0, str(run.path), last, last, 8, 8, 2, 8, 1.0, 2.0, 0.0)]

    def draw():
        return Sampling(
            space=read_space([RATES]),
            name="study",
            storage=str(folder / "study.journal"),
            folder=folder,
            wanted=len(sequences),
            seed=0,
            metric="f1",
            rises=rises,
            asked={},
            train=train,
            prune=prune,
            evaluations=len(sequences[0]),
        ).run(wait=True, again="")

    if stop[0] >= 0:
        with pytest.raises(Interrupted):
            draw()
        stop = (-1, 0)
    return draw()


def came(trials) -> list[tuple[str, int]]:
    """State and evaluations of every trial that counts."""
    return [(trial.state, len(trial.scores)) for trial in trials if trial.state != "retried"]


def test_a_trial_goes_on_where_it_is_among_the_best_third(tmp_path):
    """Rungs are the evaluations 1 and 3; the fourth is the end."""
    trials = sample(
        tmp_path,
        [
            [0.50, 0.60, 0.70, 0.80],  # the first of all
            [0.40, 0.99, 0.99, 0.99],  # 1st rung: second of two
            [0.55, 0.60, 0.65, 0.90],  # 1st rung: best of three; 2nd: second of two
            [0.60, 0.60, 0.75, 0.70],  # best of four; best of three
            [0.58, 0.99, 0.99, 0.99],  # second of five, of whom one goes on
            [0.59, 0.60, 0.74, 0.99],  # second of six, of whom two go on; second of four
        ],
    )
    assert came(trials) == [
        ("finished", 4),
        ("pruned", 1),
        ("pruned", 3),
        ("finished", 4),
        ("pruned", 1),
        ("pruned", 3),
    ]
    assert [trial.reached for trial in trials] == [
        None,
        Reached(1, 0.5, 0.40),
        Reached(3, 1.5, 0.65),
        None,
        Reached(1, 0.5, 0.58),
        Reached(3, 1.5, 0.74),
    ]
    assert [trial.value for trial in trials] == [0.80, None, None, 0.70, None, None]


@pytest.mark.parametrize("rises", [True, False])
def test_any_scores_are_pruned_as_by_hand(tmp_path, rises):
    rng = random.Random(1)
    sequences = [[rng.random() for _ in range(11)] for _ in range(14)]
    trials = sample(tmp_path, sequences, rises=rises)
    expected = by_hand(sequences, rises=rises)
    assert [len(trial.scores) for trial in trials] == expected
    assert [trial.scores for trial in trials] == [s[:n] for s, n in zip(sequences, expected, strict=True)]
    assert {1, 3, 11} <= set(expected)


def test_brackets_prune_any_scores_as_by_hand(tmp_path):
    rng = random.Random(3)
    sequences = [[rng.random() for _ in range(9)] for _ in range(16)]
    expected = by_brackets(sequences, rises=False)
    assert {1, 3, 9} <= set(expected)
    assert expected != by_hand(sequences, rises=False)
    trials = sample(tmp_path, sequences, rises=False, prune="hyperband")
    assert [len(trial.scores) for trial in trials] == expected


def test_an_interrupted_trial_stays_in_its_bracket(tmp_path):
    """The 3rd is in the one that ends nothing before the 9th evaluation; by its new number, 4, it would be in the first, and the worst."""
    sequences = [[0.5] * 9, [0.5] * 9, [0.5] * 9, [0.0] * 9]
    trials = sample(tmp_path, sequences, stop=(3, 2), prune="hyperband")
    assert by_brackets(sequences, rises=True)[3] == 9
    assert [(trial.state, len(trial.scores)) for trial in trials[3:]] == [("retried", 2), ("finished", 9)]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_trial_comes_to_its_rungs_once(tmp_path, at):
    """Counted twice it would be one of three at the first rung where the next trial comes, which then would have to be the best."""
    rng = random.Random(2)
    sequences = [[0.5, 0.5, 0.5, 0.5], *([rng.random() for _ in range(4)] for _ in range(9))]
    trials = sample(tmp_path, sequences, stop=(0, at))
    assert [trial.state for trial in trials].count("retried") == 1
    assert [length for _, length in came(trials)] == by_hand(sequences, rises=True)


def work(folder, results) -> None:
    results.put(came(sample(folder, [[0.5, 0.6, 0.7, 0.8]] * 6)))


def test_two_workers_share_pruned_trials(tmp_path, monkeypatch):
    """Equal scores are all among the best: every trial that is drawn comes through, and both workers see the same."""
    monkeypatch.setattr(workers, "POLL", 0.02)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    two = [context.Process(target=work, args=(tmp_path, results)) for _ in range(2)]
    for worker in two:
        worker.start()
    told = [results.get(timeout=60) for _ in two]
    for worker in two:
        worker.join(60)
    assert told == [[("finished", 4)] * 6] * 2


def halting(loaded, *, run_dir, resume, hooks) -> None:
    """In place of a training: one that is as good as its rate is near 1e-3, all the way."""
    write_text(Run(run_dir).recipe, loaded.to_yaml())
    watched = [hook for hook in hooks if hasattr(hook, "told")]
    if watched or loaded.recipe.task.holdout is None:
        score = -abs(loaded.recipe.training.lr - 1e-3)
        evaluated(Run(run_dir), [score] * 4, watched)
    pretend(loaded, run_dir=run_dir, resume=resume, hooks=hooks)


def test_a_sweep_never_chooses_a_pruned_point(small, undrawn, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "train", halting)
    settings = {"folder": tmp_path / "s", **PRUNED, "trials": 6, "seeds": [3, 4]}
    result = sweep(small, [RATES], **settings)
    expected = by_hand([[-abs(trial.settings["training.lr"] - 1e-3)] * 4 for trial in result.trials], rises=True)
    assert [len(trial.scores) for trial in result.trials] == expected
    pruned = [trial.name for trial in result.trials if trial.state == "pruned"]
    assert 0 < len(pruned) < 6
    there = [point for point in result.points if point.came_to is not None]
    assert result.points[: len(there)] == there  # the pruned ones last
    assert {point.name for point in result.points[len(there) :]} == set(pruned)
    assert all(point.reached is None for point in there)
    assert all([run.seed for run in point.came_to.runs] == [3, 4] for point in there)
    assert result.final is not None
    done = log(tmp_path / "s")
    assert not any(name.startswith(f"{point}-") for point in pruned for name in done)
    assert (result.failed, result.missing) == ([], [])
    assert not any("no finished run" in told for told in result.warnings)
    assert sweep(small, [RATES], **settings).to_dict() == result.to_dict()
    assert log(tmp_path / "s") == done  # nothing is trained again
    with pytest.raises(UsageError, match="another sweep; it differs in --prune"):
        sweep(small, [RATES], **(settings | {"prune": None}))


def test_pruned_points_come_last_the_farthest_first():
    def point(name: str, reached: Reached | None) -> SweptPoint:
        return SweptPoint(name, {}, None, reached)

    points = [
        point("failed", None),
        point("early", Reached(1, 1.0, 0.9)),
        point("worse", Reached(3, 3.0, 0.5)),
        point("better", Reached(3, 3.0, 0.6)),
    ]

    def order(higher: bool) -> list[str]:
        return [it.name for it in sorted(points, key=lambda it: rank(it, seeds=1, higher=higher))]

    assert order(True) == ["better", "worse", "early", "failed"]
    assert order(False) == ["worse", "better", "early", "failed"]


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"holdout": None}, [RATES], r"--prune: needs rows held out of the training rows: .*\n *try: --holdout 0.2"),
        ({"trials": None}, ["adapter.rank=2,4"], r"--prune: is for drawn trials, and a grid .*\n *try: --trials N"),
        (
            {"prune": "ahsa"},
            [RATES],
            r"'ahsa' is no way of pruning\n *valid: asha, hyperband\n *try: did you mean 'asha'",
        ),
        ({"prune": "hyperband"}, [RATES, "training.epochs=2"], "scored twice are in one bracket of hyperband"),
        ({}, [RATES, "training.epochs=1"], "scored once, at its end"),
        ({}, [RATES, "training.epochs=2,4"], "scored 2 to 4 times, and pruning compares the same evaluation"),
    ],
)
def test_what_cannot_be_pruned_is_refused(small, tmp_path, changes, overrides, message):
    for call in (sweep, plan_sweep):
        with pytest.raises(UsageError, match=message):
            call(small, overrides, folder=tmp_path / "s", **(PRUNED | changes))
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_real_trials_are_pruned_and_the_same_again(small, tmp_path):
    varying = ["training.lr=1e-6..1e-1", "training.epochs=2", "evaluation.every=0.5"]
    with mock.patch.object(running, "draw"):
        first, again = (
            sweep(small, varying, seeds=[0], folder=tmp_path / name, **(PRUNED | {"trials": 6})) for name in "ab"
        )
    assert [(t.state, t.scores, t.settings) for t in first.trials] == [
        (t.state, t.scores, t.settings) for t in again.trials
    ]
    whole = [[*trial.scores, *[-1.0] * (4 - len(trial.scores))] for trial in first.trials]
    assert [len(trial.scores) for trial in first.trials] == by_hand(whole, rises=True)
    assert "pruned" in {trial.state for trial in first.trials}
    for trial in first.trials:
        run = Run(tmp_path / "a" / f"{trial.name}-0")
        scores = [record["scores"][first.metric] for record in run.metrics() if "scores" in record]
        assert scores == trial.scores
        assert run.finished == (trial.state == "finished")
    assert first.points[0].came_to is not None
