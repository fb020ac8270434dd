"""What is said of a run's own task and of others: no more than the intervals say. And the figure of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import binomtest

from lorakit.cli.analyze import probe_table
from lorakit.reporting.analysis.kept_figure import kept_figure
from lorakit.reporting.analysis.kept_words import beside_words, kept_facts, kept_tables, kept_words, shown
from lorakit.reporting.analysis.records import Kept, RunAnalysis, TaskBeside, TaskKept
from lorakit.reporting.stats import Difference, paired_difference

UP, DOWN, OPEN = (0.05, 0.02, 0.08), (-0.1, -0.15, -0.05), (0.01, -0.02, 0.04)


def gap(mean: float, low: float, high: float, ties: int = 90) -> Difference:
    return Difference(100, mean, 0.3, low, high, 5, ties, 0.95)


def task(name: str, change: tuple[float, float, float] = OPEN, **given: Any) -> TaskKept:
    values = {"own": False, "classes": 2, "readout": "own", "other_readout": False, "split": "validation"}
    values |= {
        "train_rows": 200,
        "rows": 100,
        "majority": 0.5,
        "over_majority": gap(*UP),
        "unknown": 0,
        "repeated": 0,
        "trained_on": 0,
        "fitted_on": 0,
    }
    values |= {"before": 0.8, "after": 0.8 + change[0], "change": gap(*change)}
    values |= {"random": 0.8, "random_change": gap(*OPEN), "beside_random": gap(*change)}
    return TaskKept(name, **values | given)


def kept(*tasks: TaskKept, **given: Any) -> Kept:
    told = {"without": "", "without_own": "", "same": [], "without_random": "", "random_left": []}
    return Kept([*tasks], **told | given)


def run(name: str, found: Kept) -> RunAnalysis:
    return RunAnalysis(Path(name), name, "lora", "last", 0, [], {}, [], [], [], kept=found)


@pytest.mark.parametrize(
    ("change", "sign", "told"),
    [
        (UP, 1, "after: +5.0 points (95 % interval +2.0 to +8.0)."),
        (DOWN, -1, "after: -10.0 points (95 % interval -15.0 to -5.0)."),
        (OPEN, 0, "after: no difference that these rows show (+1.0 points, 95 % interval -2.0 to +4.0)."),
        ((0.02, 0.0, 0.04), 0, "no difference that these rows show"),
    ],
)
def test_a_difference_is_one_where_its_interval_leaves_0_out(change, sign, told):
    assert shown(gap(*change)) == sign
    words = kept_words(kept(task("mrpc", change)), told=True)
    assert told in words[0]
    assert words[0].startswith("On mrpc a probe gets 80.0 % of 100 held-out rows right before and")


def test_answers_that_are_the_same_have_no_interval():
    still = task("a", change=(0.0, 0.0, 0.0))
    words = kept_words(kept(replace(still, change=gap(0.0, 0.0, 0.0, ties=100))), told=True)
    assert "80.0 % after: the same rows are right." in words[0]


def test_what_was_learnt_is_beside_a_random_update():
    for beside, than in (
        (UP, "what was learnt gets 5.0 points more (95 % interval +2.0 to +8.0)."),
        (DOWN, "what was learnt gets 10.0 points less (95 % interval -15.0 to -5.0)."),
        (OPEN, "no difference from what was learnt that these rows show."),
    ):
        words = kept_words(kept(task("a", UP, beside_random=gap(*beside))), told=True)
        assert words[0].endswith(f"With a random update it is 80.0 %: {than}")


def test_two_runs_are_told_apart_where_the_interval_leaves_0_out():
    told = [beside_words(TaskBeside("a", gap(*change)), "lora", "full") for change in (DOWN, OPEN)]
    assert told == [
        "Of a a probe gets 10.0 points less right in full than in lora (95 % interval -15.0 to -5.0).",
        "Between their probes of a there is no difference that these rows show (full less lora: +1.0 points, 95 % interval -2.0 to +4.0).",
    ]


def test_others_that_lost_are_counted_apart_from_those_that_show_nothing():
    words = kept_words(kept(task("own", UP, own=True), task("a", DOWN), task("b", OPEN), task("c", DOWN)), told=True)
    assert words[0].startswith("On own, which it learnt, a probe gets")
    assert words[-1] == "Of 3 other tasks, 2 lost by it, 0 gained, and 1 show no difference."


def test_what_there_is_to_know_of_the_numbers_is_told():
    odd = task(
        "a",
        unknown=2,
        repeated=1,
        trained_on=3,
        fitted_on=4,
        over_majority=gap(*OPEN),
        other_readout=True,
        readout="mean",
        random=None,
        beside_random=None,
    )
    found = kept(odd, without_own="it predicts a number", same=["b"], without_random="a bottleneck is not linear")
    words = kept_words(found, told=False)
    for part in (
        "Its own task has no probe: it predicts a number.",
        "b is what it learnt itself.",
        "Before, that is no more than always answering a's most common class gets (50.0 %), as far as these rows show: it knew",
        "Held-out rows of a whose class no row has that its probe is fitted on: 2.",
        "Held-out texts of a that its probe is fitted on too: 1.",
        "Held-out texts of a that the run was trained on: 3; it is not wholly another task.",
        "Of the rows that the probe of a is fitted on, the run was trained on 4 texts.",
        "The head compares two texts, and a's rows have one: the mean of all tokens was read of them.",
        "There is no random update to set beside it: a bottleneck is not linear.",
    ):
        assert any(sentence.startswith(part) for sentence in words)
    assert "It sees 200 training rows and nothing else" in words[-2]
    left = kept_words(kept(task("a"), random_left=["biases"]), told=True)
    assert left[-1] == "The random update is of the weights alone, and has none of the rest: biases."
    assert kept_words(kept(same=["b"]), told=False) == ["b is what it learnt itself."]
    assert kept_words(kept(without="x"), told=False) == ["No probe was fitted: x."]


def test_the_table_and_the_facts_have_a_row_for_each():
    runs = [
        run(
            "lora",
            kept(task("own", UP, own=True), task("a", DOWN, random=None, random_change=None, beside_random=None)),
        )
    ]
    (table,) = kept_tables(runs)
    assert table.rows[0][:6] == ["lora, own (its own)", "100", "50.0 %", "80.0 %", "85.0 %", "+5.0"]
    assert table.rows[1] == ["lora, a", "100", "50.0 %", "80.0 %", "70.0 %", "-10.0", "-15.0 to -5.0", "", "", ""]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert kept_facts(runs[0], "") == [("own task", "+5.0 points (random +1.0)"), ("other tasks", "-10.0 points")]
    assert kept_tables([run("bare", kept(without="x"))]) == []


def test_the_figure_has_the_own_task_at_the_top_and_a_row_for_each_other():
    tasks = [task("a", DOWN), task("own", UP, own=True), task("b", random=None, random_change=None, beside_random=None)]
    (axes,) = kept_figure([run("lora", kept(*tasks))]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["learnt: own", "other: a", "other: b"]
    rows = dict(zip(axes.get_yticks(), ("own", "a", "b"), strict=True))
    points = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted((rows[y], round(x, 6)) for x, y in points) == [("a", -10), ("a", 1), ("b", 1), ("own", 1), ("own", 5)]
    spans = {rows[line.get_ydata()[0]]: line.get_xdata() for line in axes.lines if line.get_linewidth() == 1.4}
    assert spans["a"] == pytest.approx([-15, -5])
    assert axes.yaxis_inverted()


def test_what_the_run_was_trained_on_is_told_of_its_own_task_too_and_where_nothing_tells():
    own = task("a", own=True, trained_on=2)
    (told,) = [line for line in kept_words(kept(own), told=True) if "was trained on" in line]
    assert (
        told == "Held-out texts of a that the run was trained on: 2, and what it learnt by heart is in these numbers."
    )
    unknown = kept_words(kept(task("a", trained_on=None), task("b", trained_on=None)), told=True)
    assert sum("Nothing tells which of these texts the run was trained on" in line for line in unknown) == 1


@pytest.mark.parametrize("differ", range(1, 9))
def test_a_difference_of_few_rows_is_one_where_the_exact_sign_test_has_it(differ):
    found = paired_difference([0.0] * differ + [1.0] * (200 - differ), [1.0] * 200)
    assert shown(found) == (-1 if binomtest(differ, differ).pvalue < 0.05 else 0)
    (line,) = kept_words(kept(replace(task("a"), change=found)), told=True)
    assert ("too few to tell" in line) == (4 <= differ < 6)
    assert ("no difference that these rows show" in line) == (differ < 6)


def test_one_row_alone_shows_nothing():
    assert not shown(paired_difference([1.0], [0.0]))


def test_80_columns_have_the_run_and_every_task():
    console = Console(width=80)
    with console.capture() as shown_there:
        console.print(
            probe_table("a-run-of-a-long-name", [task("rotten_tomatoes", own=True), task("customer_feedback")])
        )
    for part in ("a-run-of-a-long-name", "rotten_tomatoes (own)", "customer_feedback", "-2.0 to +4.0", "80.0 %"):
        assert part in shown_there.get()
