"""What ``lorakit analyze`` passes on and prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit
from lorakit.errors import UsageError
from lorakit.reporting.intrinsic import IntrinsicCurve, Subspace


@pytest.fixture
def analyzed(workflow, monkeypatch):
    calls = []

    def analyze(*runs, **options):
        calls.append((runs, options))
        if workflow.raises:
            raise workflow.raises
        lost = SimpleNamespace(mean=-0.1, low=-0.15, high=-0.05)
        task = SimpleNamespace(name="mrpc", own=False, before=0.8, after=0.7, change=lost, random=None)
        return SimpleNamespace(
            runs=[SimpleNamespace(name="a", kept=SimpleNamespace(tasks=[task]) if options["others"] else None)],
            page=Path("runs/a/report/analysis.html"),
            figures=[Path("runs/a/report/analysis-norms.png")],
            summary=[SimpleNamespace(title="Where the update is", sentences=["v 44 % [of it]."])],
            to_dict=lambda: {"page": "runs/a/report/analysis.html", "runs": []},
        )

    monkeypatch.setattr(lorakit, "analyze", analyze, raising=False)
    return calls


def test_runs_and_options_are_passed_on_and_the_words_printed(cli, here, analyzed):
    ran = cli("analyze", "runs/a", "b=runs/c", "--rows", "64", "--weights", "best", "--offline")
    options = {"rows": 64, "weights": "best", "others": [], "probe_rows": None, "offline": True}
    assert analyzed == [(("runs/a", "b=runs/c"), options)]
    assert ran.out.splitlines() == ["Where the update is", "  v 44 % [of it].", "", "page  runs/a/report/analysis.html"]
    assert "1 figure beside it as PNG" in ran.err


def test_what_other_tasks_keep_is_a_line_each(cli, here, analyzed):
    ran = cli("analyze", "runs/a", "--others", "mrpc", "--others", "own.csv", "--probe-rows", "90")
    options = analyzed[0][1]
    assert (options["others"], options["probe_rows"]) == (["mrpc", "own.csv"], 90)
    line = next(line for line in ran.out.splitlines() if line.strip().startswith("mrpc "))
    assert " ".join(line.split()) == "mrpc 80.0 % 70.0 % -10.0 -15.0 to -5.0"
    assert "a: held-out rows that a probe gets right" in ran.out


def test_json_is_all_that_is_on_standard_output(cli, here, analyzed):
    ran = cli("analyze", "runs/a", "--json")
    assert json.loads(ran.out) == {"page": "runs/a/report/analysis.html", "runs": []}
    assert ran.err == ""


def test_without_a_run_the_newest_is_taken(cli, here, analyzed):
    ran = cli("analyze")
    assert (ran.code, analyzed) == (2, [])
    assert "no finished run" in ran.err
    run = here / "runs" / "a-0"
    run.mkdir(parents=True)
    (run / "recipe.yaml").touch()
    (run / "summary.json").write_text('{"task": "sst2"}')
    assert cli("analyze", "--quiet").err == ""
    assert [runs for runs, _ in analyzed] == [(Path("runs/a-0"),)]


def test_an_error_is_one_message(cli, here, analyzed, workflow):
    workflow.raises = UsageError("the two runs update no site in common", where="runs/b", valid="one run")
    ran = cli("analyze", "runs/a", "runs/b")
    assert (ran.code, ran.out) == (2, "")
    assert "error: runs/b: the two runs update no site in common" in ran.err


@pytest.fixture
def measured(monkeypatch):
    calls = []

    def intrinsic_dimension(recipe, overrides, **asked):
        calls.append((recipe, list(overrides), asked))
        subspaces = [Subspace("said", 8, {0: 0.75}), Subspace("said", 32, {0: 0.25})]
        curve = IntrinsicCurve("sst2", "accuracy", {0: 0.75}, 5000, 66, 0.5, 0.5, subspaces)
        return SimpleNamespace(
            curve=curve,
            page=Path("f/intrinsic.html"),
            figure=Path("f/intrinsic.png"),
            summary=[],
            missing=[],
            failed=calls[-1][2].get("seeds") == [7] and [SimpleNamespace(run="f/a-7", why="it was hot")],
            to_dict=lambda: {"d90": {"said": 8}},
        )

    monkeypatch.setattr(lorakit, "intrinsic_dimension", intrinsic_dimension, raising=False)
    return calls


def test_an_intrinsic_dimension_is_measured_and_told(cli, here, measured):
    options = ["--dimensions", "8,32", "--kinds", "said", "--seeds", "0", "--lr", "0.01,0.02", "--folder", "f"]
    options += ["--metric", "f1"]
    ran = cli("analyze", "--intrinsic", "demo", "task.max_train_rows=50", *options)
    recipe, overrides, asked = measured[0]
    assert (recipe, overrides) == ("demo", ["task.max_train_rows=50"])
    assert {name: asked[name] for name in ("dimensions", "kinds", "seeds", "lr", "metric", "folder")} == {
        "dimensions": [8, 32],
        "kinds": ["said"],
        "seeds": [0],
        "lr": [0.01, 0.02],
        "metric": "f1",
        "folder": Path("f"),
    }
    assert "full_lr" not in asked
    rows = [line.split() for line in ran.out.splitlines() if "0." in line]
    assert [row[0] for row in rows] == ["0", "8", "32", "5,000"]
    assert rows[1][1:] == ["0.7500", "100", "%"]
    assert ran.out.splitlines()[-1] == "page  f/intrinsic.html"


def test_failed_trainings_are_told_after_the_result(cli, here, measured):
    ran = cli("analyze", "--intrinsic", "demo", "--seeds", "7", "--json")
    assert json.loads(ran.out) == {"d90": {"said": 8}}
    assert (ran.code, "it was hot" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["runs/a", "--seeds", "0"], "--seeds: is for --intrinsic RECIPE"),
        (["runs/a", "--metric", "f1"], "--metric: is for --intrinsic RECIPE"),
        (["runs/a", "--full-lr", "0.1"], "--full-lr: is for --intrinsic RECIPE"),
        (["--intrinsic", "demo", "--rows", "3"], "--rows: looks at runs"),
        (["--intrinsic", "demo", "--others", "mrpc"], "--others: looks at runs"),
        (["--intrinsic", "demo", "--dimensions", "8,x"], "'8,x' is not a list of dimensions"),
        (["--intrinsic", "demo", "--dimensions", "8,8"], "names one of its dimensions twice"),
    ],
)
def test_options_of_one_are_refused_by_the_other(cli, here, analyzed, measured, options, told):
    ran = cli("analyze", *options)
    assert (ran.code, analyzed, measured) == (2, [], [])
    assert told in " ".join(ran.err.split())
