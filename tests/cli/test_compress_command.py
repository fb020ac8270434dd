"""What ``lorakit compress`` passes on and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lorakit
from lorakit.workflow.compress import Code, CompressResult, RoleError, Scores, Size

RESULT = CompressResult(
    out=Path("runs/a-compeft"),
    source=Path("runs/a"),
    method="compeft",
    ranks=None,
    code=Code(2048, "drawn", 3, 2.0, 1.75),
    entries=10240,
    sizes=[Size("adapter", 40960, 1200), Size("head", 264, 264)],
    errors=[RoleError("q", 12, 0.25)],
    error=0.2345,
    scores=Scores("accuracy", 408, 0.8, 0.775),
)


@pytest.fixture
def compressed(workflow, monkeypatch):
    calls = []

    def compress(*args, **kwargs):
        calls.append((args, kwargs))
        return RESULT

    monkeypatch.setattr(lorakit, "compress", compress, raising=False)
    return calls


def test_options_are_passed_on_and_sizes_printed(cli, here, compressed):
    options = ("--method", "compeft", "--density", "0.1", "--scale", "2", "--rank", "3", "--energy", "0.5", "--eval")
    ran = cli("compress", "runs/a", *options, "--weights", "best", "--out", "runs/b")
    assert ran.code == 0
    given = {"method": "compeft", "density": 0.1, "scale": 2.0, "rank": 3, "energy": 0.5, "score": True}
    assert compressed == [((Path("runs/a"),), {**given, "weights": "best", "out": Path("runs/b")})]
    for told in (
        "2,048 of 10,240 entries",
        "the recipe draws; 3 tensors from zero",
        "25.00%",
        "23.45%",
        "0.8000 before, 0.7750 after",
    ):
        assert told in ran.out
    assert "2; nearest to the kept entries is 1.75" in ran.out
    assert "408 rows of the run's validation split" in ran.out
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["adapter", "40,960", "1,200", "2.9%"] in rows
    assert "predict runs/a-compeft" in ran.err


def test_json_is_all_that_is_on_standard_output(cli, here, compressed):
    ran = cli("compress", "runs/a", "--rank", "2", "--json", "--quiet")
    assert json.loads(ran.out)["sizes"][0] == {"name": "adapter", "before": 40960, "after": 1200}
    assert (ran.err, compressed[0][1]["method"], compressed[0][1]["score"]) == ("", "svd", False)


@pytest.mark.parametrize("wrong", [("--method", "zip"), ("--rank", "many"), ("--density", "half")])
def test_mistakes_are_told_before_anything_is_loaded(cli, here, compressed, wrong):
    ran = cli("compress", "runs/a", *wrong)
    assert (ran.code, compressed) == (2, [])
    assert wrong[0] in ran.err
