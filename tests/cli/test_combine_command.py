"""What ``lorakit combine`` passes on and prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit
from lorakit.artifacts.combination import combinations
from lorakit.cli.completion import complete_combination

RESULT = {
    "out": Path("runs/ab"),
    "method": "ties",
    "runs": ["runs/a", "runs/b"],
    "coefficients": [0.5, 1.0],
    "task": "mrpc",
    "sites": 24,
    "ranks": (8, 16),
    "error": 0.0312,
    "head": "runs/a",
    "rows": 0,
    "adapter_parameters": 294912,
}


@pytest.fixture
def combined(workflow, monkeypatch):
    calls = []

    def combine(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(**RESULT, to_dict=lambda: {**RESULT, "out": "runs/ab"})

    monkeypatch.setattr(lorakit, "combine", combine, raising=False)
    return calls


def test_options_are_passed_on_and_facts_printed(cli, here, combined):
    ran = cli(
        *(
            "combine",
            "runs/a",
            "runs/b",
            "--method",
            "ties",
            "--coefficients",
            "0.5,1",
            "--rank",
            "4",
            "--density",
            ".2",
        ),
        *("--rows", "32", "--seed", "7", "--weights", "best", "--out", "runs/ab"),
        *("--option", "labels=own", "--option", "normalise=none"),
    )
    assert ran.code == 0
    (args, kwargs) = combined[0]
    assert args == ([Path("runs/a"), Path("runs/b")],)
    assert kwargs == {
        "method": "ties",
        "coefficients": [0.5, 1.0],
        "rank": 4,
        "density": 0.2,
        "options": {"labels": "own", "normalise": "none"},
        "rows": 32,
        "seed": 7,
        "weights": "best",
        "out": Path("runs/ab"),
    }
    for fact in ("coefficient 0.5", "24, ranks 8 to 16", "3.12% of the combined updates' norm", "294,912"):
        assert fact in ran.out
    assert "eval mrpc --run runs/ab" in ran.err


def test_json_is_all_that_is_on_standard_output(cli, here, combined):
    ran = cli("combine", "runs/a", "runs/b", "--json", "--quiet")
    assert json.loads(ran.out)["error"] == 0.0312
    assert (ran.err, combined[0][1]["coefficients"]) == ("", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing"),
        (("runs/a", "runs/b", "--coefficients", "half,half"), "not a list of numbers"),
        (("runs/a", "runs/b", "--option", "labels"), "sets nothing"),
        (("runs/a", "runs/b", "--option", "labels=own", "--option", "labels=expected"), "given twice"),
        (("runs/a", "runs/b", "--weights", "first"), "no 'first' weights"),
        (("runs/a", "runs/b", "--weights", "0.5,0.5"), "--coefficients for how much each run counts"),
        (("runs/a", "runs/b", "--use", "best"), "--use is now called --weights"),
        (("runs/a", "runs/b", "--rank", "many"), "rank"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(cli, here, combined, arguments, message):
    ran = cli("combine", *arguments)
    assert (ran.code, combined) == (2, [])
    assert message in ran.err


def test_methods_are_completed_and_named_in_the_help(cli):
    assert complete_combination("li") == ["linear"]
    text = " ".join(cli("combine", "--help").out.split())
    assert all(name in text.replace("│ ", "").replace(" │", "") for name in combinations.names())
