"""Arms summed up, on runs whose numbers are written by hand."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from support.runs import Bench

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import Run
from lorakit.workflow.experiments.arms import Arm, Entry
from lorakit.workflow.experiments.totals import as_csv, side_by_side, warnings

LAST = {"a": {2: 0.70, 0: 0.81, 1: 0.75}, "b": {0: 0.84, 3: 0.99, 1: 0.74, 2: 0.73}, "c": {7: 0.5}}


@pytest.fixture
def arms(bench: Bench, tmp_path: Path) -> list[Arm]:
    """a has 1,000 parameters in its adapters, b 1,005 and c 1,020."""
    made = []
    for (name, values), parameters in zip(LAST.items(), (1000, 1005, 1020), strict=True):
        entries = {}
        for seed, value in values.items():
            run = Run(tmp_path / f"{name}-{seed}")
            summary = {
                "task": "custom",
                "metric": "f1",
                "steps": 30,
                "last": {"f1": value, "accuracy": value - 0.1},
                "best": {"f1": value + 0.01 * seed, "accuracy": value},
                "adapter_parameters": parameters,
                "carried_parameters": parameters + seed,
                "head_parameters": 66,
                "budget": parameters,
                "epochs": 3.0,
                "seconds": 100.0 + seed,
                "search_seconds": 20.0,
            }
            write_json(run.path / "summary.json", summary)
            entries[seed] = Entry(seed, run)
        made.append(Arm(name, bench.load().recipe, entries, given=False))
    return made


def test_pairs_are_by_seed_whatever_the_order(arms):
    a, b, c = side_by_side(arms, "f1")
    last = np.array([0.84 - 0.81, 0.74 - 0.75, 0.73 - 0.70])
    best = last + 0.01 * np.array([0, 1, 2]) - 0.01 * np.array([0, 1, 2])
    for told, gaps in ((b.last_difference, last), (b.best_difference, best)):
        assert (told.n, told.wins, told.ties) == (3, 2, 0)
        assert (told.mean, told.sd) == (pytest.approx(gaps.mean()), pytest.approx(gaps.std(ddof=1)))
        assert (told.low, told.high) == (
            pytest.approx(gaps.min()),
            pytest.approx(gaps.max()),
        )  # of 27 drawings one each
    assert a.last_difference is None
    assert c.last_difference is c.best_difference is None


def test_means_are_over_the_runs(arms):
    _, b, _ = side_by_side(arms, "accuracy")
    values = np.array(list(LAST["b"].values())) - 0.1
    assert (b.last.mean, b.last.sd) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    assert b.last.median == pytest.approx(np.median(values))
    assert b.best.largest == 0.99
    assert (b.seconds, b.carried_parameters) == (101.5, round(1005 + 1.5))
    assert b.search_overhead == pytest.approx(80 / (406 - 80))


def test_what_differs_is_told(arms):
    told = "\n".join(warnings(arms, side_by_side(arms, "f1")))
    assert "fewer than 5 seeds, read the intervals with care: a 3, b 4, c 1" in told
    assert "one run does not tell how much a run varies: c" in told
    assert "b has other seeds than a: the difference is over 0, 1, 2" in told
    assert "c has other seeds than a: none in common, so there is no difference" in told
    assert "c has 1,020 adapter parameters, and a 1,000: the budgets differ" in told
    assert "1,005" not in told  # half a percent


def test_csv_has_a_line_for_each_run(arms):
    rows = list(csv.DictReader(io.StringIO(as_csv(side_by_side(arms, "f1")))))
    assert len(rows) == 8
    assert {(row["side"], int(row["seed"])): float(row["last_f1"]) for row in rows} == {
        (name, seed): value for name, values in LAST.items() for seed, value in values.items()
    }
    assert list(rows[0])[-1] == "path"
    assert float(rows[0]["best_accuracy"]) == 0.81


def test_sides_that_collapsed_are_told_and_have_no_difference(arms):
    """Of a and b all runs but one of b: their last scores are those of one class, and the best ones of two classes."""
    for arm in arms[:2]:
        for entry in arm.entries.values():
            if (arm.name, entry.seed) != ("b", 3):
                write_json(entry.run.path / "summary.json", {**entry.run.summary(), "collapsed": True})
    a, b, _ = compared = side_by_side(arms, "f1")
    assert (a.collapsed, b.collapsed) == (3, 3)
    assert b.last_difference is None
    assert b.best_difference is not None
    told = [text for text in warnings(arms, compared) if "collapsed" in text]
    assert told == [
        "a: 3 of 3 runs collapsed to one class for every validation row (seed 0, 1, 2), so differences to it mean little",
        "b: 3 of 4 runs collapsed to one class for every validation row (seed 0, 1, 2), so differences to it mean little",
    ]
