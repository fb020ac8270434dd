"""What ``lorakit export`` passes on and prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit

RESULT = {
    "out": Path("runs/a/peft"),
    "to": "peft",
    "kind": "LORA",
    "method": "pissa",
    "sites": 4,
    "ranks": (6, 8),
    "rows": 30,
    "largest_difference": 1.5e-6,
    "largest_logit": 2.5,
    "tolerance": 1e-3,
    "read_by": "peft",
    "load_line": "model = PeftModel.from_pretrained(base, 'runs/a/peft')",
}


@pytest.fixture
def exported(workflow, monkeypatch):
    calls = []

    def export(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(**RESULT, to_dict=lambda: {**RESULT, "out": str(RESULT["out"])})

    monkeypatch.setattr(lorakit, "export", export, raising=False)
    return calls


def test_options_are_passed_on_and_facts_printed(cli, here, exported):
    ran = cli("export", "runs/a", "--out", "there", "--weights", "best", "--force", "--tolerance", "0.1", "--rank", "2")
    assert ran.code == 0
    (args, kwargs) = exported[0]
    assert args == (Path("runs/a"),)
    chosen = {"to": "peft", "out": Path("there"), "weights": "best", "tolerance": 0.1, "force": True, "rank": 2}
    assert kwargs == chosen
    assert "pissa, as LORA in PEFT" in ran.out
    assert "4, ranks 6 to 8" in ran.out
    assert "30 rows: largest logit difference 1.5e-06 (allowed 0.001, largest logit 2.5), read by peft" in ran.out
    assert RESULT["load_line"] in ran.err


def test_json_is_all_that_is_on_standard_output(cli, here, exported):
    ran = cli("export", "runs/a", "--json", "--quiet")
    assert json.loads(ran.out)["ranks"] == [6, 8]
    assert ran.err == ""


def test_another_library_is_a_usage_error(cli, here, exported):
    ran = cli("export", "runs/a", "--to", "tflite")
    assert (ran.code, exported) == (2, [])
    assert "peft" in ran.err
    ran = cli("export", "runs/a", "--int8")
    assert (ran.code, exported) == (2, [])
    assert "--int8 is for --to onnx" in ran.err


def test_what_8_bits_cost_is_told(cli, here, monkeypatch):
    small = SimpleNamespace(
        bytes=2**20,
        flips=1,
        largest_difference=0.25,
        rows=30,
        scores={"accuracy": 0.5},
        float_scores={"accuracy": 0.75},
        note="",
    )
    told = {
        "out": Path("runs/a/onnx"),
        "bytes": 4 * 2**20,
        "merged": True,
        "inputs": ["input_ids", "attention_mask"],
        "flips": 0,
        "int8": small,
        **{name: RESULT[name] for name in ("rows", "largest_difference", "largest_logit", "tolerance")},
    }
    calls = []

    def export_onnx(*args, **kwargs):
        calls.append((args, kwargs))
        return SimpleNamespace(**told)

    monkeypatch.setattr(lorakit, "export_onnx", export_onnx, raising=False)
    ran = cli("export", "runs/a", "--to", "onnx", "--int8", "--rank", "2")
    options = {"out": None, "int8": True, "weights": None, "tolerance": None, "force": False, "rank": 2}
    assert calls == [((Path("runs/a"),), options)]
    assert "30 rows: largest logit difference 1.5e-06" in ran.out
    assert "1 MiB; largest logit difference 0.25, 1 label changed; accuracy 0.5000 on 30 rows" in ran.out
    small.rows, small.note = 0, "there is no file"
    assert "not scored: there is no file" in cli("export", "runs/a", "--to", "onnx", "--int8").out


def test_without_a_run_and_without_runs_one_message(cli, here, exported):
    ran = cli("export")
    assert (ran.code, exported) == (2, [])
    assert "no finished run" in ran.err
