"""Runs over one backbone: as each is alone, to the bit; mixed in one pass, to rounding; and the backbone as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import Bench, make_rows
from transformers import AutoModel

import lorakit
from lorakit.backbone.shared import named_tensors
from lorakit.errors import DataError, LorakitError
from lorakit.workflow.one_backbone import named_runs
from lorakit.workflow.open_adapters import Adapters

TEXTS = [row["sentence"] for row in make_rows(24, seed=9)]
IDS = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 11, 12, 3]])
ROUNDING = 1e-6
PLAIN = "adapter.dropout=0"
RUNS = {  # name -> (kind of task, overrides): heads, read-outs, labels, lengths and forms of the update that differ
    "films": ("one", ("evaluation.calibrate=true",)),
    "moods": ("several", (PLAIN, "adapter.method=dora", "model.readout=layers", "task.max_length=8")),
    "share": ("number", (PLAIN, "adapter.method=bitfit", "task.max_length=6", "task.long=windows")),
    "pairs": ("pair", (PLAIN, "adapter.method=houlsby")),
    "words": ("one", (PLAIN, "adapter.method=prompt_tuning")),
}
SHARING = [name for name in RUNS if name != "words"]


@pytest.fixture(scope="module")
def runs(bench: Bench) -> dict[str, Path]:
    """Runs of one step."""
    short = ("training.max_steps=1", "training.lr=0.1")
    return {
        name: bench.train(*short, *overrides, kind=kind, name=f"one-of-{name}").run_dir
        for name, (kind, overrides) in RUNS.items()
    }


@pytest.fixture(scope="module")
def model(runs: dict[str, Path]) -> Adapters:
    """All of them."""
    return lorakit.open_adapters(runs)


def rows_for(names: list[str]) -> list[str | tuple[str, str]]:
    """A text for each, of its run's kind."""
    texts = zip(names, TEXTS, strict=False)
    return [tuple(text.split(" ", 1)) if name == "pairs" else text for name, text in texts]  # type: ignore[misc]


@torch.no_grad()
def is_pretrained(model: Adapters, folder: Path) -> bool:
    """Whether, with nothing in use, the backbone gives transformers' own outputs, bit for bit."""
    expected = AutoModel.from_pretrained(folder).eval()(IDS).last_hidden_state
    return torch.equal(model.use(None).model(IDS).last_hidden_state, expected)


def test_each_answers_as_the_run_alone(model: Adapters, runs: dict[str, Path]):
    for name, run in runs.items():
        texts = rows_for([name] * 6)
        found = model.use(name).predict(texts)
        assert found == lorakit.load(run).predict(texts) == model.predict(texts, adapter=name)
    assert model.using == "words"
    assert model.model is model["words"].model


def test_unplugged_the_backbone_is_the_pretrained_one(bench: Bench, model: Adapters):
    assert is_pretrained(model, bench.backbone())
    for name in RUNS:
        model.use(name)
    model.predict(rows_for(SHARING * 2), adapter=SHARING * 2)
    assert is_pretrained(model, bench.backbone())


def test_frozen_tensors_are_in_memory_once(model: Adapters):
    backbone = {each.data_ptr() for name, each in named_tensors(model.shared.model) if name not in model.shared.own}
    for name in RUNS:
        assert backbone <= {each.data_ptr() for _, each in named_tensors(model[name].model)} | own_biases(model, name)
        adapted = model[name].adapted
        trained = sum(tensor.parameter.nbytes for tensor in adapted.trained())
        norms = sum(each.nbytes for a in adapted.adapters.values() for each in a.buffers())  # DoRA's, of W
        assert model.bytes_of(name) == trained + norms
    assert model.backbone_bytes > 3 * max(map(model.bytes_of, RUNS))


def own_biases(model: Adapters, name: str) -> set[int]:
    """Where the parameters that this run has its own copies of are in the backbone."""
    originals = (
        each.data_ptr()
        for a in model[name].adapted.adapters.values()
        if a.delta.replaces_parameters
        for each in a.originals.values()
    )
    pooler = {each.data_ptr() for key, each in named_tensors(model.shared.model) if ".pooler." in key}
    return {*originals} | pooler


def test_rows_of_several_share_one_pass(model: Adapters, runs: dict[str, Path]):
    names = SHARING * 4
    texts = rows_for(names)
    model.predict(texts[:4], adapter=names[:4])
    assert model._mixed is not None
    passes: list[int] = []
    layer = model._mixed.base.get_submodule("encoder.layer.0")
    hook = layer.register_forward_hook(lambda module, given, output: passes.append(len(given[0])))
    answers = model.outputs(texts, names)
    hook.remove()
    windows = sum(len(TEXTS[row].split()) > 4 for row in range(2, 16, 4))  # six tokens, two of them special
    assert len(passes) == 1
    assert passes[0] >= len(texts) + windows
    for name, text, answer in zip(names, texts, answers, strict=True):
        alone = model[name].outputs([text], 1)[0]
        assert answer == pytest.approx(alone, abs=ROUNDING)
    assert [each.text for each in model.predict(texts, 3, adapter=names)] == texts


def test_what_cannot_share_a_pass_has_its_own(model: Adapters):
    assert "virtual tokens" in model.apart("words")
    assert {model.apart(name) for name in SHARING} == {""}
    names = ["words", "films", "words", "moods", "films"]
    answers = model.outputs([*TEXTS[:4], " "], names)
    for name, text, answer in zip(names, TEXTS, answers[:4], strict=False):
        assert answer == pytest.approx(model[name].outputs([text], 1)[0], abs=ROUNDING)
    assert np.isnan(answers[4]).all()
    assert model.predict(["", "good"], adapter=["films", "moods"])[0].label == ""


def test_plugged_in_and_out(model: Adapters, runs: dict[str, Path], bench: Bench):
    names, texts = ["m", "films"], TEXTS[:2]
    model.plug(runs["moods"], "m").use("m")
    before = model.outputs(texts, names)
    model.unplug("m").plug(runs["moods"], "m")
    assert model.using is None
    for one, other in zip(before, model.outputs(texts, names), strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(LorakitError, match="is called m already"):
        model.plug(runs["films"], "m")
    assert model.unplug("m").names == [*RUNS]
    assert model._mixed is not None
    assert "m" not in {name for owners in model._mixed.owners.values() for name in owners}
    assert is_pretrained(model, bench.backbone())


def test_a_run_is_called_by_its_folder(tmp_path: Path):
    (tmp_path / "b=c").mkdir()
    with pytest.raises(LorakitError, match=r"\['a', 'b'\] names no run"):
        named_runs([["a", "b"]])  # type: ignore[list-item]
    found = named_runs([tmp_path / "a", f"b={tmp_path}/c", f"{tmp_path}/b=c", {"d": "e"}])
    assert found == {"a": tmp_path / "a", "b": tmp_path / "c", "b=c": tmp_path / "b=c", "d": Path("e")}


def test_wrong_names_and_rows(model: Adapters):
    for wrong in (lambda: model.use("film"), lambda: model.predict("good", adapter="film")):
        with pytest.raises(LorakitError, match=r"no adapter 'film'\n.*valid: films, moods.*\n.*did you mean 'films'"):
            wrong()
    model.use(None)
    with pytest.raises(LorakitError, match="no adapter 'None'"):
        model.predict(["rain"], adapter=[None])  # type: ignore[list-item]
    with pytest.raises(LorakitError, match="no adapter is in use\n    valid: films"):
        model.predict("good")
    with pytest.raises(LorakitError, match="1 adapters are named for 2 texts"):
        model.predict(["good", "bad"], adapter=["films"])
    with pytest.raises(DataError, match="text 2 is none: None"):
        model.predict(["good", None], adapter=["films", "moods"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="text 2 has half of a surrogate pair"):
        model.predict(["good", "a \ud83d"], adapter=["films", "moods"])
    with pytest.raises(DataError, match="line 1 does not fit"):
        model.predict(["good", "bad"], adapter=["pairs", "moods"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("attention: sdpa", "attention: eager", "model.attention is eager here, and sdpa in"),
        ("precision: fp32", "precision: bf16", "training.precision is bf16 here"),
        ("rope_scaling: null", "rope_scaling: 2.0", "model.rope_scaling is 2.0 here, and None in"),
        ("quantization: none", "quantization: mixed", "quantised weights were chosen in its own training"),
        ("name: /", "name: elsewhere/", "model.name is elsewhere"),
    ],
)
def test_another_backbone_is_refused(runs: dict[str, Path], tmp_path: Path, old: str, new: str, message: str):
    other = Path(shutil.copytree(runs["films"], tmp_path / "other"))
    recipe = (other / "recipe.yaml").read_text()
    assert old in recipe
    (other / "recipe.yaml").write_text(recipe.replace(old, new, 1))
    with pytest.raises(LorakitError, match=message):
        lorakit.open_adapters(runs["moods"], other)


def test_other_weights_under_one_name_are_refused(runs: dict[str, Path], tmp_path: Path):
    other = Path(shutil.copytree(runs["films"], tmp_path / "other"))
    told = (other / "data.json").read_text()
    digest = told.split('"model.safetensors": "')[1][:64]
    (other / "data.json").write_text(told.replace(digest, "0" * 64))
    with pytest.raises(LorakitError, match=r"it was trained on other weights of .* than "):
        lorakit.open_adapters(runs["moods"], other)
    emptied = lorakit.open_adapters({"m": runs["moods"]}).unplug("m")  # the backbone is still that of m
    with pytest.raises(LorakitError, match="it was trained on other weights"):
        emptied.plug(other)
    assert emptied.plug(runs["moods"], "m").predict(TEXTS[:1], adapter="m") == lorakit.predict(runs["moods"], TEXTS[:1])


def test_what_is_no_finished_run_is_refused(runs: dict[str, Path], tmp_path: Path):
    stopped = Path(shutil.copytree(runs["films"], tmp_path / "stopped"))
    (stopped / "summary.json").unlink()
    with pytest.raises(LorakitError, match="not finished: interrupted"):
        lorakit.open_adapters(runs["moods"], stopped)
    for file in ("lorakit.json", "config.json"):
        (tmp_path / file).write_text("{}")
    with pytest.raises(LorakitError, match="is a merged model"):
        lorakit.open_adapters(tmp_path)
    together = lorakit.ensemble([runs["films"], runs["words"]], out=tmp_path / "both").out
    with pytest.raises(LorakitError, match="is an ensemble of runs"):
        lorakit.open_adapters(together)
    with pytest.raises(LorakitError, match="two runs are called A"):
        lorakit.open_adapters({"A": runs["films"]}, f"A={runs['moods']}")
    with pytest.raises(LorakitError, match="no run to open"):
        lorakit.open_adapters()
