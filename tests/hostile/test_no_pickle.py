"""No pickle is ever read: not by a line of ours, and not below it."""

from __future__ import annotations

import ast
import pickle
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from support.hostile.readers import make_readers
from support.hostile.spoiling import Trap
from support.runs import StopAt

import lorakit
from lorakit.backbone.load import load_backbone
from lorakit.errors import Interrupted, LorakitError
from lorakit.recipe.schema import ModelSection

SOURCES = sorted(Path(lorakit.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("joblib", "load"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def unsafe(source: str) -> list[str]:
    """What a source file does that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            called = node.func
            if (
                isinstance(called, ast.Attribute)
                and isinstance(called.value, ast.Name)
                and (called.value.id, called.attr) in CALLS
            ):
                found.append(f"{called.value.id}.{called.attr}")
            elif isinstance(called, ast.Name) and called.id in BUILTINS:
                found.append(called.id)
            found += [
                str(word.arg)
                for word in node.keywords
                if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
            ]
            found += ["shell" for word in node.keywords if word.arg == "shell"]
    return found


def test_what_is_unsafe_is_seen():
    for line in (
        "import pickle",
        "from pickle import load",
        "torch.load(x)",
        "f(x, allow_pickle=True)",
        "eval(x)",
        "yaml.load(x)",
    ):
        assert unsafe(line), line
    assert not unsafe("model.eval()\nyaml.compose(x)\ntorch.save(x)\nimport json")


def test_no_source_reads_a_pickle_or_runs_text():
    assert len(SOURCES) > 200
    found = {str(path): unsafe(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: what for path, what in found.items() if what} == {}


def test_every_reader_works_without_pickle(bench, plain, unfinished, merged, exported, tmp_path):
    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    resumed = Path(shutil.copytree(unfinished, tmp_path / "resumed"))
    settings = [
        f"task.train={bench.data()}/train.csv",
        "task.text=sentence",
        "task.label=label",
        f"model.name={bench.backbone()}",
    ]
    names = ("load", "loads", "Unpickler")
    with mock.patch.multiple(pickle, **dict.fromkeys(names, refuse)), mock.patch.object(torch, "load", refuse):
        with pytest.raises(AssertionError):
            pickle.loads(b"")
        for name, read in make_readers(bench, plain).items():
            read(plain, tmp_path / name)
        lorakit.load(merged).predict(["a good film"])
        lorakit.import_adapter(exported, task="custom", out=tmp_path / "imported", overrides=settings, offline=True)
        loaded = lorakit.load_recipe(resumed / "recipe.yaml")
        with pytest.raises(Interrupted):
            lorakit.train(loaded, run_dir=resumed, resume=True, hooks=[StopAt(5)])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.safetensors"])
def test_a_pickled_base_model_is_refused(bench, tmp_path, name):
    folder = Path(shutil.copytree(bench.backbone(), tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    torch.save({"a": Trap(tmp_path / "sprung")}, folder / name)
    with pytest.raises(LorakitError) as caught:
        load_backbone(ModelSection(name=str(folder)), labels=("no", "yes"), regression=False, seed=0, offline=True)
    if name != "model.safetensors":
        assert "pickled weights can run code and are not read" in str(caught.value)
        assert "save_pretrained, which writes safetensors" in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_the_trap_works(tmp_path):
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "sprung").is_dir()
