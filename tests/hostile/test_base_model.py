"""The base model is the one that was asked for, no code of its own runs unasked, and a person is told where folders disagree."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
from support.runs import edited_json
from transformers import dynamic_module_utils

import lorakit
from lorakit.backbone.load import load_backbone
from lorakit.errors import LorakitError, RecipeError, RunError
from lorakit.recipe.schema import ModelSection

CODE = """
from pathlib import Path
(Path(__file__).parent / "ran").touch()
Path({mark!r}).touch()
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class Config(BertConfig):
    model_type = "own"
class Model(BertForSequenceClassification):
    config_class = Config
class Words(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def own_code(bench, tmp_path) -> Path:
    """A model whose configuration, weights and tokenizer name code in its folder."""
    folder = Path(shutil.copytree(bench.backbone(), tmp_path / "model"))
    (folder / "code.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    with edited_json(folder / "config.json") as config:
        config["model_type"] = "own"
        config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    with edited_json(folder / "tokenizer_config.json") as config:
        config["tokenizer_class"] = "Words"
        config["auto_map"] = {"AutoTokenizer": [None, "code.Words"]}
    return folder


def load(folder: Path, **section: bool):
    return load_backbone(
        ModelSection(name=str(folder), **section), labels=("no", "yes"), regression=False, seed=0, offline=True
    )


def test_code_of_a_model_is_refused_and_not_run(own_code, tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(own_code)
    (problem,) = caught.value.problems
    assert (problem.key, "none of it was run" in problem.what) == ("model.trust_remote_code", True)
    assert "where you trust that code" in problem.hint
    assert not (tmp_path / "ran").exists()


def test_code_of_a_tokenizer_is_refused_and_not_run(own_code, tmp_path):
    with edited_json(own_code / "config.json") as config:
        config["model_type"] = "bert"
        del config["auto_map"]
    with contextlib.suppress(RecipeError):  # transformers may have a tokenizer of its own for the architecture
        load(own_code)
    assert not (tmp_path / "ran").exists()


def test_a_known_architecture_never_runs_code_that_its_folder_offers(own_code, tmp_path):
    with edited_json(own_code / "config.json") as config:
        config["model_type"] = "bert"
    (own_code / "tokenizer_config.json").write_bytes(b"{}")
    assert type(load(own_code).model).__name__ == "BertForSequenceClassification"
    assert not (tmp_path / "ran").exists()


def test_a_run_cannot_ask_for_its_model_s_code(own_code, plain, tmp_path, monkeypatch):
    """A recipe that a person trains may ask for it; a run that comes from elsewhere is not that person's word."""
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    text = (run / "recipe.yaml").read_text()
    lines = [f"  name: {own_code}" if line.startswith("  name: /") else line for line in text.splitlines()]
    (run / "recipe.yaml").write_text("\n".join(lines).replace("trust_remote_code: false", "trust_remote_code: true"))
    for read in (lorakit.load, lorakit.merge, lorakit.export, lambda run: lorakit.evaluate(run, task="custom")):
        with pytest.raises(RecipeError) as caught:
            read(run)
        (problem,) = caught.value.problems
        assert re.search(r"recipe.yaml:\d+$", problem.where)
        assert "LORAKIT_TRUST_REMOTE_CODE=1" in problem.hint
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("LORAKIT_TRUST_REMOTE_CODE", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers adds to it
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "file" / "modules"))
    (tmp_path / "file").touch()  # as in a home that may not be written
    with pytest.raises(RecipeError, match="HF_HOME=a folder that may be written"):
        lorakit.load(run)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    with contextlib.suppress(LorakitError):  # the code is run, whatever comes of it
        lorakit.load(run)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        'x, "trust_remote_code":true',
        "x\ntrust_remote_code: true",
        "x}\nrun: {offline: false",
        "*a",
        "!!x y",
        "${oc.env:HOME}",
        "\x00",
    ],
)
def test_the_base_model_s_name_is_a_name(bench, exported, tmp_path, name):
    """What a PEFT adapter calls its base model sets no other key of the recipe."""
    folder = Path(shutil.copytree(exported, tmp_path / "peft"))
    with edited_json(folder / "adapter_config.json") as config:
        config["base_model_name_or_path"] = name
    settings = [f"task.train={bench.data()}/train.csv", "task.text=sentence", "task.label=label"]
    with pytest.raises(LorakitError) as caught:
        lorakit.import_adapter(folder, task="custom", out=tmp_path / "out", overrides=settings, offline=True)
    assert {problem.key for problem in caught.value.problems} == {"model.name"}
    assert not (tmp_path / "out").exists()


def test_another_base_model_is_told(plain, exported, bench, tmp_path, caplog):
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("lorakit.json", "model")):
        with edited_json(run / "adapter" / file) as told:
            told[key] = "someone/else"
        caplog.clear()
        lorakit.load(run)
        (record,) = [record for record in caplog.records if "someone/else" in record.getMessage()]
        assert record.levelno == logging.WARNING
        assert str(bench.backbone()) in record.getMessage()
        with edited_json(run / "adapter" / file) as told:
            told[key] = str(bench.backbone())
    caplog.clear()
    lorakit.load(run)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_adapter_in_a_model_s_folder_is_not_slipped_in(bench, plain, tmp_path):
    folder = Path(shutil.copytree(bench.backbone(), tmp_path / "model"))
    shutil.copy(plain / "adapter" / "adapter_config.json", folder)
    shutil.copy(plain / "adapter" / "adapter_model.safetensors", folder)
    with pytest.raises(RecipeError, match="an adapter beside its model"):
        load(folder)


@pytest.mark.parametrize(
    "shard",
    ["../precious.safetensors", "/etc/passwd", "*.bin", "pytorch_model.bin", "", 5, None, ["x"], ".safetensors"],
)
def test_a_weight_index_names_files_of_its_folder(bench, tmp_path, shard):
    folder = Path(shutil.copytree(bench.backbone(), tmp_path / "model"))
    shutil.move(folder / "model.safetensors", tmp_path / "precious.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(RunError, match="weight index"):
        load(folder)
