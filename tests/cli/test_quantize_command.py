"""What ``lorakit quantize`` passes on and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.workflow.quantize import QuantizeResult, Scored

RESULT = QuantizeResult(
    out=Path("runs/a-int4"),
    source=Path("runs/a"),
    method="l2qer",
    bits="nf4",
    sites=36,
    rank=16,
    ranks=(16, 24),
    rows=32,
    metric="accuracy",
    scored_rows=408,
    states=[
        Scored("as it was", 90 * 2**20, 0.0, 0.0, 0, 0.8),
        Scored("quantised", 60 * 2**20, 0.1234, 0.5, 12, 0.775),
        Scored("corrected", 60 * 2**20, 0.0567, 0.25, 3, None),
    ],
)


@pytest.fixture
def quantized(workflow, monkeypatch):
    calls = []

    def quantize(*args, **kwargs):
        calls.append((args, kwargs))
        return RESULT

    monkeypatch.setattr(lorakit, "quantize", quantize, raising=False)
    return calls


def test_options_are_passed_on_and_states_printed(cli, here, quantized):
    options = ("--method", "lqer", "--bits", "nf4", "--rank", "16", "--rows", "32", "--seed", "3", "--group", "64")
    ran = cli("quantize", "runs/a", *options, "--weights", "best", "--out", "runs/b")
    assert ran.code == 0
    given = {"method": "lqer", "bits": "nf4", "group": 64, "rank": 16, "rows": 32, "seed": 3, "weights": "best"}
    assert quantized == [((Path("runs/a"),), {**given, "out": Path("runs/b")})]
    for told in ("36 in nf4", "rank 16, by 32 training rows", "ranks 16 to 24", "408 rows", "accuracy"):
        assert told in ran.out
    rows = {line.split()[0]: line.split()[-5:] for line in ran.out.splitlines() if "%" in line}
    assert rows["quantised"] == ["60.0", "12.34%", "0.5", "12", "0.7750"]
    assert "predict runs/a-int4" in ran.err


def test_json_is_all_that_is_on_standard_output(cli, here, quantized):
    ran = cli("quantize", "runs/a", "--json", "--quiet")
    assert json.loads(ran.out)["states"][1]["error"] == 0.1234
    assert (ran.err, quantized[0][1]["bits"], quantized[0][1]["method"]) == ("", "int4", "l2qer")


@pytest.mark.parametrize("wrong", [("--method", "gptq"), ("--bits", "int8"), ("--rank", "many")])
def test_mistakes_are_told_before_anything_is_loaded(cli, here, quantized, wrong):
    ran = cli("quantize", "runs/a", *wrong)
    assert (ran.code, quantized) == (2, [])
    assert wrong[0] in ran.err
