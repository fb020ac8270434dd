"""What ``lorakit report`` passes on and prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit


@pytest.fixture
def reported(workflow, monkeypatch):
    calls = []

    def report(run):
        calls.append(run)
        if workflow.raises:
            raise workflow.raises
        return SimpleNamespace(
            page=run / "report" / "report.html",
            figures=[run / "report" / "curves.png"],
            summary=[SimpleNamespace(title="Who got the budget", sentences=["v 44 % [of it].", "q little."])],
            to_dict=lambda: {"page": str(run / "report" / "report.html"), "roles": []},
        )

    monkeypatch.setattr(lorakit, "report", report, raising=False)
    return calls


def test_the_summary_and_the_page_are_printed(cli, here, reported):
    ran = cli("report", "runs/a")
    assert ran.code == 0
    assert reported == [Path("runs/a")]
    assert ran.out.splitlines() == [
        "Who got the budget",
        "  v 44 % [of it].",
        "  q little.",
        "",
        "page  runs/a/report/report.html",
    ]
    assert "1 figure beside it as PNG" in ran.err


def test_json_is_all_that_is_on_standard_output(cli, here, reported):
    ran = cli("report", "runs/a", "--json")
    assert json.loads(ran.out) == {"page": "runs/a/report/report.html", "roles": []}
    assert ran.err == ""


def test_without_a_run_the_newest_is_taken(cli, here, reported):
    ran = cli("report")
    assert (ran.code, reported) == (2, [])
    assert "no finished run" in ran.err
    run = here / "runs" / "a-0"
    run.mkdir(parents=True)
    (run / "recipe.yaml").touch()
    (run / "summary.json").write_text('{"task": "sst2"}')
    assert cli("report", "--quiet").err == ""
    assert reported == [Path("runs/a-0")]


def test_an_error_is_one_message(cli, here, reported, workflow):
    from lorakit.errors import RunError

    workflow.raises = RunError("is not a run's summary", where="runs/a/summary.json")
    ran = cli("report", "runs/a")
    assert (ran.code, ran.out) == (1, "")
    assert "error: runs/a/summary.json: is not a run's summary" in ran.err
