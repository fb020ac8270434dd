"""An ONNX model answers as its run does, or is not written. Exporting takes seconds a model: where it is done for real is slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import VALIDATION_ROWS, Bench, make_rows
from support.thinned import as_parameter

import lorakit
from lorakit.artifacts import onnx_file
from lorakit.artifacts.files import read_json
from lorakit.artifacts.onnx_file import MODEL, OnnxModel, write_onnx
from lorakit.errors import RunError, UsageError
from lorakit.workflow import export_onnx as exporting
from lorakit.workflow.export_onnx import check_reading
from lorakit.workflow.restore import restore_run
from lorakit.workflow.train import TrainResult

SHORT = ("training.max_steps=6", "training.lr=0.05", "adapter.dropout=0")
TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun"]
PAIRS = [("a good film", "sun"), ("the dull cast", "sleeps and never runs")]
NEEDS = pytest.mark.skipif(
    any(onnx_file.find_spec(name) is None for name in onnx_file.NEEDED), reason="needs the extra 'onnx'"
)


def write_counting(model: Any, names: Any, longest: int, path: Path) -> None:
    """In place of a model a graph by hand: a row's logits are minus how many of its tokens are read, and that."""
    from onnx import TensorProto, helper, numpy_helper, save

    signs = numpy_helper.from_array(np.array([[-1.0, 1.0]], np.float32), "signs")
    along = numpy_helper.from_array(np.array([1], np.int64), "along")
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["read"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["read", "along"], ["count"], keepdims=1),
        helper.make_node("MatMul", ["count", "signs"], ["logits"]),
    ]
    given = [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", "tokens"])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])]
    graph = helper.make_graph(nodes, "counting", given, made, [signs, along])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@NEEDS
def test_a_file_is_called_as_the_model_it_was_made_of(tmp_path: Path):
    write_counting(None, (), 8, tmp_path / MODEL)
    model = OnnxModel(tmp_path / MODEL)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert model(input_ids=mask, attention_mask=mask).logits.tolist() == [[-2, 2], [-3, 3]]
    with pytest.raises(RunError, match="does not take a batch of 3"):
        model(attention_mask=mask[0])


@NEEDS
def test_another_model_is_not_written(finished: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporting, "write_onnx", write_counting)
    with pytest.raises(RunError, match="exported ONNX model is another model: its logits differ by"):
        lorakit.export_onnx(finished.run_dir, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    made = lorakit.export_onnx(finished.run_dir, out=tmp_path / "out", tolerance=100)
    assert (made.rows, made.merged, made.inputs) == (30, True, ["attention_mask"])
    assert "An ONNX classifier for `" in (made.out / "README.md").read_text()
    rows = [
        row["sentence"] for row in make_rows(VALIDATION_ROWS, seed=VALIDATION_ROWS)
    ]  # all of which get the second class
    assert made.flips == sum(found.label == "happy" for found in lorakit.predict(finished.run_dir, rows)) > 0
    with pytest.raises(UsageError, match="exists already"):
        lorakit.export_onnx(finished.run_dir, out=tmp_path / "out")


def test_texts_that_only_lorakit_reads_so_are_refused(finished: TrainResult, monkeypatch: pytest.MonkeyPatch):
    restored = restore_run(finished.run_dir, None, with_data=False)
    parts, recipe = restored.parts, restored.parts.recipe
    spare = replace(parts.backbone, padding=replace(parts.backbone.padding, spare=1))
    check_reading(restored)
    monkeypatch.setattr(parts.backbone.model.config, "model_type", "t5gemma")
    for changed, why in (
        (replace(parts, recipe=replace(recipe, task=replace(recipe.task, long="windows"))), "task.long=windows"),
        (replace(parts, recipe=replace(recipe, model=replace(recipe.model, readout="pair"))), "its head reads"),
        (replace(parts, linear=replace(parts.linear, delta="chosen_factors")), "looks at whole rows"),
        (replace(parts, backbone=spare), "t5gemma models read the position behind"),
    ):
        with pytest.raises(RunError, match=f"an ONNX model would answer otherwise: .*{why}"):
            check_reading(replace(restored, parts=changed))


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match="ONNX needs onnxscript, which is not installed") as caught:
        lorakit.export_onnx(tmp_path)
    assert caught.value.problems[0].hint == "pip install 'lorakit[onnx]'"


def test_what_the_exporter_says_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no such operation\nand a page more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    model = torch.nn.Linear(2, 2)
    model.config = type("Config", (), {})()  # type: ignore[assignment]
    with pytest.raises(RunError, match=r"has no form for what this model computes: no such operation\s"):
        write_onnx(model, ["input_ids"], 8, tmp_path / MODEL)


CASES: dict[str, tuple[str, str, bool, tuple[str, ...]]] = {
    "an encoder": ("bert", "one", True, ()),
    "a pair, and positions from ids": ("roberta", "pair", True, ()),
    "a decoder, whose last token is read": ("llama", "one", True, ("adapter.method=dora",)),
    "absolute positions and Conv1D": ("gpt2", "one", True, ("adapter.targets=[all]",)),
    "a number": ("bert", "number", True, ()),
    "several labels": ("distilbert", "several", True, ()),
    "shortcuts": ("bert", "one", False, ("adapter.shortcuts=[res1,mid]",)),
    "a prefix": ("bert", "one", False, ("adapter.method=prefix_tuning",)),
}


@NEEDS
@pytest.mark.parametrize("case", [as_parameter(case, slow=True) for case in CASES])
def test_it_answers_as_the_run_and_the_card_says_how(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
):
    """One row by one and several together: what the card's lines print is the run's answer."""
    family, kind, merged, settings = CASES[case]
    run = bench.train(*SHORT, *settings, family=family, kind=kind).run_dir
    made = lorakit.export_onnx(run, out=tmp_path / "out", int8=True)
    assert (made.merged, made.flips, made.rows) == (merged, 0, 30)
    assert made.largest_difference < 1e-4
    assert made.int8 is not None
    assert made.int8.rows == 30
    assert set(made.int8.scores) == set(lorakit.evaluate(run).scores)
    assert made.int8.float_scores == pytest.approx(lorakit.evaluate(run).scores, abs=1e-4)
    paths = [
        str(place).encode() for place in (Path(lorakit.__file__).parent, bench.folder, Path(torch.__file__).parent)
    ]
    written = b"".join(path.read_bytes() for path in made.out.iterdir() if path.suffix in (".onnx", ".json"))
    assert not [path for path in paths if path in written]
    record = read_json(made.out / "lorakit_onnx.json")
    assert record["proof"]["largest_difference"] == made.largest_difference
    ours, texts = lorakit.load(run), PAIRS if kind == "pair" else TEXTS
    card = (made.out / "README.md").read_text()
    assert f"`{made.int8.file}` is the same model with weights of 8 bits" in card
    assert all(f"{name} {value:.4f} for" in card for name, value in made.int8.scores.items())
    monkeypatch.chdir(tmp_path)
    code = card.split("```python\n")[1].split("```")[0]
    if kind == "pair":
        code = code.replace('["a text"], ["and its second text"]', f"{[a for a, _ in PAIRS]}, {[b for _, b in PAIRS]}")
    printed: list[Any] = []
    exec(code.replace('["a text"]', str(TEXTS)), {"print": printed.append})
    expected: list[Any] = [found.label for found in ours.predict(texts)]
    if kind == "several":
        expected = [list(found.labels) for found in ours.predict(texts)]
    if kind == "number":
        assert printed[0] == pytest.approx([float(each) for each in expected], abs=1e-3)
    else:
        assert printed[0] == expected
