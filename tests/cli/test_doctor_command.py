"""``lorakit doctor``: what it asks of the workflow, its table, its exit code."""

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.workflow.doctor.doctor import Diagnosis
from lorakit.workflow.doctor.environment import Check

GOOD, BAD = Check("python", "ok", "3.12", ""), Check("recipe", "failed", "is missing", "train anew")


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the workflow; the checks that it answers with."""
    calls, checks = [], [GOOD]

    def doctor(run, *, quick):
        calls.append((run, quick))
        return Diagnosis(checks)

    monkeypatch.setattr(lorakit, "doctor", doctor, raising=False)
    return calls, checks


def test_the_table_has_a_row_a_check(cli, here, asked):
    calls, checks = asked
    ran = cli("doctor")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines() if "python" in line] == [["python", "ok", "3.12"]]
    assert "all is well" in ran.out
    checks.append(Check("checkpoints", "warning", "step-5 damaged", ""))
    assert "nothing failed, 1 worth a look" in cli("doctor").out
    checks.append(BAD)
    ran = cli("doctor", "runs/one-0", "--quick")
    assert ran.code == 1
    assert ["recipe", "failed", "is", "missing", "train", "anew"] in [line.split() for line in ran.out.splitlines()]
    assert "1 failed" in ran.out
    assert calls == [(None, False), (None, False), (Path("runs/one-0"), True)]


def test_the_same_as_json(cli, here, asked):
    asked[1].append(BAD)
    ran = cli("doctor", "--json")
    assert ran.code == 1
    told = json.loads(ran.out)
    assert told["well"] is False
    assert [tuple(row.values()) for row in told["checks"]] == [
        ("python", "ok", "3.12", ""),
        ("recipe", "failed", "is missing", "train anew"),
    ]


def test_a_folder_that_is_no_run_is_a_wrong_question(cli, here):
    ran = cli("doctor", here, "--quick")
    assert (ran.code, ran.out) == (2, "")
    assert "is not a run folder" in ran.err
