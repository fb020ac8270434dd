"""A sequence on the command line: plan, train, eval and report take it whole, the others say what it is."""

from __future__ import annotations

import json
import shutil
from unittest import mock

import pytest
from support.pages import loads_nothing, read_page
from support.sequences import Sequences

from lorakit.cli.app import main
from lorakit.cli.sequence import tell_scores
from lorakit.recipe.sequence import load_sequence
from lorakit.workflow import train as running
from lorakit.workflow.sequences.folder import told_unfinished
from lorakit.workflow.sequences.report_sequence import read_scores


@pytest.fixture(scope="module")
def learnt(bench, tmp_path_factory):
    """A recipe, and the folder that ``lorakit train`` made of it."""
    made = Sequences(bench, tmp_path_factory.mktemp("sequences"))
    recipe, home = made.recipe(tasks=("mood", "tone")), made.folder / "home"
    with mock.patch.object(running, "draw"):
        assert main(["train", str(recipe), "--run-dir", str(home), "--quiet"]) == 0
    return recipe, home


def said(capsys, *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def test_it_is_scored_and_reported_whole(learnt, capsys):
    _, home = learnt
    scores = json.loads(said(capsys, "eval", home, "--json", "--quiet"))
    assert {name: value for name, value in scores.items() if name != "source"} == json.loads(
        (home / "scores.json").read_text()
    )
    tell_scores(read_scores(home, home / "scores.json"))
    told = capsys.readouterr().out
    assert f"average accuracy {scores['known']['average']:.4f}" in told
    assert "task not known" in told
    report = json.loads(said(capsys, "report", home, "--json"))
    assert report["scores"] == scores
    page = read_page(home / "report" / "report.html")
    assert loads_nothing(page)
    assert f"{scores['unknown']['average']:.4f}" in " ".join(page.text)
    assert page.tags["svg"] == 2


def test_its_plan_is_told(learnt, capsys):
    recipe, _ = learnt
    told = said(capsys, "plan", recipe, "continual.method=separate")
    assert "separate" in told
    assert "mood and tone have labels in common" in told
    plan = json.loads(said(capsys, "train", recipe, "--dry-run", "--json"))
    assert [task["name"] for task in plan["tasks"]] == ["mood", "tone"]


def test_what_is_for_one_run_says_so(learnt, capsys):
    recipe, home = learnt
    assert "--rank is for one run" in said(capsys, "eval", home, "--rank", 2, code=2)
    assert "--folds is for one run" in said(capsys, "train", recipe, "--folds", 2, code=2)
    assert "is a sequence of tasks, and not one run" in said(capsys, "merge", home, code=2)
    assert "makes a sequence of tasks of this file" in said(capsys, "compare", recipe, "demo", code=2)
    left = home / "final" / "1-mood"
    told = said(capsys, "compare", left, home / "tasks" / "2-tone", code=2)
    assert f"lorakit eval {home}\n" in told
    assert f"of this sequence those in {home / 'tasks'}" in told


def test_a_stopped_one_is_told_of_before_it_is_learnt_anew(learnt, tmp_path):
    recipe, home = learnt
    folder = f"run.folder={tmp_path}"
    assert told_unfinished(load_sequence(recipe, [folder])) == ""
    left = tmp_path / f"{recipe.stem}-0"
    shutil.copytree(home, left, ignore=shutil.ignore_patterns("scores.json", "2-tone"))
    told = told_unfinished(load_sequence(recipe, [folder]))
    assert told == f"{left} was stopped, and 1 of its 2 tasks are learnt: lorakit train {left} --resume goes on with it"
    assert told_unfinished(load_sequence(recipe, [folder, "training.lr=1"])) == ""
