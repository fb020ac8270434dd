"""What ``lorakit import`` passes on and prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit

RESULT = {
    "out": Path("runs/a"),
    "source": Path("peft"),
    "kind": "DoRA",
    "method": "lora",
    "model": "roberta-base",
    "task": "mrpc",
    "sites": 24,
    "ranks": (8, 8),
    "adapter_parameters": 294912,
    "head": True,
}


@pytest.fixture
def imported(workflow, monkeypatch):
    calls = []

    def import_adapter(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(**RESULT, to_dict=lambda: {**RESULT, "out": "runs/a", "source": "peft"})

    monkeypatch.setattr(lorakit, "import_adapter", import_adapter, raising=False)
    return calls


def test_options_and_settings_are_passed_on_and_facts_printed(cli, here, imported):
    ran = cli("import", "peft", "--task", "mrpc", "model.name=roberta-base", "--out", "runs/a", "--offline")
    assert ran.code == 0
    (args, kwargs) = imported[0]
    assert args == (Path("peft"),)
    assert kwargs == {
        "task": "mrpc",
        "out": Path("runs/a"),
        "overrides": ["model.name=roberta-base"],
        "offline": True,
    }
    assert "DoRA of PEFT, as method lora" in ran.out
    assert "24, rank 8" in ran.out
    assert "294,912" in ran.out
    assert "eval mrpc --run runs/a" in ran.err


def test_json_is_all_that_is_on_standard_output(cli, here, imported):
    ran = cli("import", "peft", "--task", "mrpc", "--json", "--quiet")
    assert json.loads(ran.out)["adapter_parameters"] == 294912
    assert ran.err == ""


@pytest.mark.parametrize("arguments", [("peft",), ("--task", "mrpc")])
def test_the_folder_and_the_task_must_be_given(cli, here, imported, arguments):
    ran = cli("import", *arguments)
    assert (ran.code, imported) == (2, [])
    assert "Missing" in ran.err
