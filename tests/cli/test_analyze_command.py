"""What ``lorakit analyze`` passes on and prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit
from lorakit.errors import UsageError


@pytest.fixture
def analyzed(workflow, monkeypatch):
    calls = []

    def analyze(*runs, **options):
        calls.append((runs, options))
        if workflow.raises:
            raise workflow.raises
        return SimpleNamespace(
            page=Path("runs/a/report/analysis.html"),
            figures=[Path("runs/a/report/analysis-norms.png")],
            summary=[SimpleNamespace(title="Where the update is", sentences=["v 44 % [of it]."])],
            to_dict=lambda: {"page": "runs/a/report/analysis.html", "runs": []},
        )

    monkeypatch.setattr(lorakit, "analyze", analyze, raising=False)
    return calls


def test_runs_and_options_are_passed_on_and_the_words_printed(cli, here, analyzed):
    named = ["--others", "mrpc", "--others", "own.csv", "--probe-rows", "90"]
    ran = cli("analyze", "runs/a", "b=runs/c", "--rows", "64", "--weights", "best", *named, "--offline")
    options = {"rows": 64, "weights": "best", "others": ["mrpc", "own.csv"], "probe_rows": 90, "offline": True}
    assert analyzed == [(("runs/a", "b=runs/c"), options)]
    assert ran.out.splitlines() == ["Where the update is", "  v 44 % [of it].", "", "page  runs/a/report/analysis.html"]
    assert "1 figure beside it as PNG" in ran.err


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
