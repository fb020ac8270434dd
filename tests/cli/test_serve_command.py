"""What ``lorakit serve`` passes on and prints."""

from __future__ import annotations

import json

import pytest

import lorakit
from lorakit.workflow.serve import Served

ADDRESS = "http://127.0.0.1:8123"


@pytest.fixture
def served(workflow, monkeypatch):
    calls = []

    def serve(*args, on_ready, **kwargs):
        calls.append((args, kwargs))
        on_ready(ADDRESS)
        return Served(ADDRESS, ["a", "topics"], 1200, 3400, 60.2)

    monkeypatch.setattr(lorakit, "serve", serve, raising=False)
    return calls


def test_options_are_passed_on_and_the_address_is_told(cli, here, served):
    limits = ("--max-texts", "8", "--max-characters", "9", "--max-body", "10", "--max-waiting", "11")
    rest = ("--batch-size", "4", "--wait", "2.5", "--linger", "1", "--weights", "best")
    ran = cli("serve", "runs/a", "topics=runs/b", "--host", "::1", "--port", "8123", *limits, *rest)
    assert (ran.code, ran.out) == (0, "")
    given = {"max_texts": 8, "max_characters": 9, "max_body": 10, "max_waiting": 11, "batch_size": 4, "wait": 2.5}
    where = {"host": "::1", "port": 8123, "linger": 1.0, "weights": "best"}
    assert served == [(("runs/a", "topics=runs/b"), given | where)]
    assert f"{ADDRESS}: POST /predict, GET /health, GET /metrics" in ran.err
    assert "1,200 requests with 3,400 texts in 60 s" in ran.err


def test_only_this_machine_by_default(cli, here, served):
    ran = cli("serve", "runs/a", "--json", "--quiet")
    assert json.loads(ran.out)["requests"] == 1200
    ((_, given),) = served
    assert (given["host"], given["port"]) == ("127.0.0.1", 8000)


def test_a_run_must_be_named(cli, here, served):
    assert cli("serve").code == 2
    assert served == []
