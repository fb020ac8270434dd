"""A merged model is the adapted one: for a stranger without lorakit where a plain checkpoint can hold it, else for lorakit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.models import ENCODER, FAMILIES
from support.runs import SEARCH, Bench, edited_json
from support.thinned import thinned
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
)

import lorakit
from lorakit.artifacts import merge as folding
from lorakit.artifacts.files import read_json
from lorakit.artifacts.merge import check_foldable
from lorakit.errors import RecipeError, RunError, UsageError
from lorakit.workflow import merge as merging
from lorakit.workflow.predict import Classifier
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import assemble
from lorakit.workflow.train import TrainResult

STRANGER = """
import json, sys
import torch
sys.modules["lorakit"] = None  # importing it is an error
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
with torch.no_grad():
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
print(json.dumps({"logits": logits.tolist(), "labels": model.config.id2label}))
"""
TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]


def logits(classifier: Classifier) -> torch.Tensor:
    inputs = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        result: torch.Tensor = classifier.model(**inputs).logits
    return result


def test_a_stranger_gets_the_same_labels(bench: Bench, tmp_path: Path):
    run = bench.train("training.lr=0.02", "adapter.targets=[all]").run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert merged.plain
    assert merged.load_line == f'AutoModelForSequenceClassification.from_pretrained("{tmp_path / "merged"}")'
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "merged"), json.dumps(TEXTS)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    ours = lorakit.predict(run, TEXTS)
    assert_close(torch.tensor(told["logits"]), logits(lorakit.load(run)), rtol=1e-4, atol=1e-5)
    assert [told["labels"][str(int(np.argmax(row)))] for row in told["logits"]] == [each.label for each in ours]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("bert", ("adapter.method=dora",), marks=pytest.mark.slow),
        pytest.param("gpt2", ("adapter.targets=[all]",), marks=pytest.mark.slow),
        ("gpt2", ("adapter.method=dora", "adapter.targets=[all]")),
        pytest.param("llama", ("adapter.targets=[all]",), marks=pytest.mark.slow),
        ("bert", SEARCH),
        ("bert", ("adapter.targets=[q]", "adapter.shortcuts=[res1,in,mid,cut,res2]")),
        ("bert", (*SEARCH, "adapter.shortcut_norm=paper", "adapter.shortcuts=[in,mid]")),
        ("llama", ("adapter.shortcuts=[res1,in,mid]",)),
    ],
)
def test_merged_is_adapted(bench: Bench, tmp_path: Path, family: str, settings: tuple[str, ...]):
    run = bench.train("training.lr=0.02", "training.max_steps=8", *settings, family=family).run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    told = read_json(run / "adapter" / "lorakit.json")["sites"]
    on = {site["name"]: site["kind"] for site in told if site["state"] == "on"}
    assert merged.folded == sum(kind != "shortcut" for kind in on.values())
    assert set(merged.kept) >= {name for name, kind in on.items() if kind == "shortcut"}
    assert merged.plain is (not merged.kept)
    assert merged.flips == 0
    assert merged.largest_difference < 1e-4 < merged.largest_logit
    assert merged.rows == 30
    assert_close(logits(lorakit.load(tmp_path / "merged")), logits(lorakit.load(run)), rtol=1e-4, atol=1e-5)
    proof = read_json(tmp_path / "merged" / "lorakit.json")["proof"]
    assert (proof["largest_difference"], proof["flips"]) == (merged.largest_difference, 0)
    if not merged.plain:
        assert "lorakit.load" in merged.load_line


def test_the_plain_part_holds_no_adapter(searched: TrainResult, bench: Bench, tmp_path: Path):
    """The tensors of a classifier of this architecture, shortcuts in a file of their own."""
    merged = lorakit.merge(searched.run_dir, out=tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    assert set(load_file(tmp_path / "merged" / "model.lorakit.safetensors")) == set(model.state_dict())
    kept = load_file(tmp_path / "merged" / "lorakit_model.safetensors")
    assert set(kept) == {f"{name}.{letter}" for name in merged.kept for letter in "AB"}


@pytest.fixture(scope="module")
def closed(searched: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged folder with shortcuts."""
    return lorakit.merge(searched.run_dir, out=tmp_path_factory.mktemp("closed") / "merged").out


LOADERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "auto": (AutoModelForSequenceClassification.from_pretrained, "a plain loader would answer otherwise"),
    "configuration": (AutoConfig.from_pretrained, "a plain loader would answer otherwise"),
    "pipeline": (
        lambda folder: transformers.pipeline("text-classification", str(folder)),
        "a plain loader would answer otherwise",
    ),
    "the class itself": (BertForSequenceClassification.from_pretrained, "no file named model.safetensors"),
    "the base model": (BertModel.from_pretrained, "no file named model.safetensors"),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_what_a_plain_loader_would_misread_it_does_not_load(closed: Path, loader: str):
    load, message = LOADERS[loader]
    with pytest.raises((ValueError, OSError), match=message):
        load(closed)


def test_a_merged_model_with_shortcuts_is_no_base_model(closed: Path, bench: Bench, tmp_path: Path):
    """Nothing of it would be left out without a word; a folder of an older lorakit, open to all, is read as before."""
    with pytest.raises(RecipeError, match="merged run with shortcuts, which are no part of its weights"):
        bench.train(f"model.name={closed}")
    older = shutil.copytree(closed, tmp_path / "older")
    (older / "model.lorakit.safetensors").rename(older / "model.safetensors")
    with edited_json(older / "config.json") as config:
        config["model_type"] = config.pop("lorakit_model_type")
    assert torch.equal(logits(lorakit.load(older)), logits(lorakit.load(closed)))
    with pytest.raises(RecipeError, match="merged run with shortcuts"):
        bench.train(f"model.name={older}")


def test_a_plain_merged_model_goes_on_being_trained_with_its_head(bench: Bench, finished: TrainResult, tmp_path: Path):
    lorakit.merge(finished.run_dir, out=tmp_path / "merged")
    still = ("training.lr=1e-12", "training.max_steps=1", "training.weight_decay=0")
    again = bench.train(f"model.name={tmp_path / 'merged'}", *still)
    assert again.last == finished.last


def test_a_padding_that_only_lorakit_adds_closes_the_folder_too(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It can still be loaded, and trained on: all is in its weights."""
    monkeypatch.setattr("lorakit.backbone.padding.READS_ONE_FURTHER", ("bert",))
    run = bench.train("training.max_steps=2").run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert (merged.plain, merged.kept) == (False, [])
    assert "lorakit.load" in merged.load_line
    with pytest.raises(ValueError, match="a plain loader would answer otherwise"):
        AutoModelForSequenceClassification.from_pretrained(merged.out)
    ours = lorakit.load(run).predict_proba(TEXTS)
    np.testing.assert_allclose(lorakit.load(merged.out).predict_proba(TEXTS), ours, rtol=1e-5)
    assert bench.train(f"model.name={merged.out}", "training.max_steps=1").steps == 1
    with pytest.raises(
        RunError, match="PEFT would answer otherwise: bert models read the position behind the last token"
    ):
        lorakit.export(run, out=tmp_path / "peft")


def test_transformers_cuts_texts_where_the_run_does(bench: Bench, tmp_path: Path):
    """And a training that starts from the folder may read longer texts again."""
    run = bench.train("training.lr=0.05", "task.max_length=6").run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    plain = transformers.pipeline("text-classification", str(merged.out), top_k=None)
    text = "dull slow cold " * 5 + "good fine warm"
    (theirs,) = plain([text], truncation=True)
    (ours,) = lorakit.predict(run, [text])
    assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in theirs} == ours.probabilities
    assert read_json(merged.out / "lorakit.json")["max_length"] == 6
    again = assemble(bench.load(f"model.name={merged.out}", "task.max_length=20")).backbone
    assert again.longest_text(20) == 20


def test_a_tokenizer_without_a_limit_gets_the_runs(bench: Bench, tmp_path: Path):
    """Or the model's, where its positions are fewer: 64 in the tiny models."""
    base = shutil.copytree(bench.backbone(), tmp_path / "base")
    with edited_json(base / "tokenizer_config.json") as config:
        config["model_max_length"] = 10**30
    run = bench.train(f"model.name={base}", "task.max_length=100", "training.max_steps=1").run_dir
    out = lorakit.merge(run, out=tmp_path / "merged").out
    assert AutoTokenizer.from_pretrained(out).model_max_length == 64
    assert len(lorakit.predict(out, ["good " * 90])) == 1


def test_best_and_last_weights_are_merged_as_asked(bench: Bench, tmp_path: Path):
    run = bench.train("training.lr=0.05", "training.epochs=3", "evaluation.every_steps=2")
    assert run.best_step < run.steps
    for weights in ("last", "best"):
        lorakit.merge(run.run_dir, out=tmp_path / weights, weights=weights)
        merged = logits(lorakit.load(tmp_path / weights))
        assert_close(merged, logits(lorakit.load(run.run_dir, weights=weights)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [pytest.param((), marks=pytest.mark.slow), ("adapter.shortcuts=[res1]", "adapter.targets=[up]")],
)
def test_a_model_is_written_in_shards(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
):
    """Each of at most so many bytes, or one tensor, with an index as transformers writes it; a shard is let go when it is written."""
    run = bench.train("training.lr=0.05", "training.max_steps=2", *settings).run_dir
    whole = lorakit.merge(run, out=tmp_path / "whole")
    monkeypatch.setattr(folding, "SHARD", "8KB")
    parts = lorakit.merge(run, out=tmp_path / "parts")
    (expected,) = tmp_path.glob("whole/model*.safetensors")
    shards = sorted(tmp_path.glob("parts/model*.safetensors"))
    (index,) = tmp_path.glob("parts/*.index*.json")
    found = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert len(shards) > 3
    assert all(len(load_file(shard)) == 1 or shard.stat().st_size < 10_000 for shard in shards)
    assert set(json.loads(index.read_text())["weight_map"]) == set(found)
    assert_close(found, load_file(expected), rtol=0, atol=0)
    assert_close(logits(lorakit.load(parts.out)), logits(lorakit.load(whole.out)), rtol=0, atol=0)


def test_more_than_the_tolerance_leaves_nothing(finished: TrainResult, tmp_path: Path):
    (tmp_path / "before").touch()
    with pytest.raises(RunError, match="logits differ by") as caught:
        lorakit.merge(finished.run_dir, out=tmp_path / "merged", tolerance=0.0)
    assert caught.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_a_refused_merge_leaves_the_one_before(finished: TrainResult, tmp_path: Path):
    lorakit.merge(finished.run_dir, out=tmp_path / "merged")
    before = {path: path.read_bytes() for path in (tmp_path / "merged").iterdir()}
    with pytest.raises(RunError):
        lorakit.merge(finished.run_dir, out=tmp_path / "merged", tolerance=0.0, force=True)
    assert {path: path.read_bytes() for path in (tmp_path / "merged").iterdir()} == before


def test_rounding_to_bfloat16_is_told_as_it_is(bench: Bench, tmp_path: Path):
    """The merged weights round where W and dW did not: by no more than that type rounds, and refused where that is too much."""
    run = bench.train("model.dtype=bfloat16", "training.lr=0.02", "adapter.targets=[all]").run_dir
    with pytest.raises(RunError, match="logits differ by") as caught:
        lorakit.merge(run, out=tmp_path / "merged", tolerance=1e-3)
    assert "float32" in caught.value.problems[0].hint
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert merged.tolerance == pytest.approx(8 * 2**-7 * merged.largest_logit)
    assert 1e-3 < merged.largest_difference < merged.tolerance
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if "encoder" in name} == {torch.bfloat16}


@pytest.mark.parametrize("family", thinned(["bert", "llama"], 2))
def test_a_run_under_autocast_is_proved_without_it(bench: Bench, tmp_path: Path, family: str):
    """The rounding of autocast says nothing of weights that are float32."""
    run = bench.train("training.precision=bf16", "training.lr=0.05", "adapter.targets=[all]", family=family).run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert merged.tolerance == 1e-3
    assert merged.largest_difference < 1e-5 < 1e-2 < merged.largest_logit
    exported = lorakit.export(run, out=tmp_path / "peft")
    assert exported.largest_difference < 1e-5


def test_a_weight_that_modules_share_is_told(bench: Bench, tmp_path: Path):
    """As in families that repeat one block (Zamba2): the advice is not a larger tolerance."""
    restored = restore_run(bench.train("training.max_steps=1", "adapter.targets=[q]").run_dir, "last").adapted
    first, second = (restored.model.get_submodule(site.name) for site in restored.sites)
    second.weight = first.weight
    with pytest.raises(RunError, match=r"layer\.0.*query and .*layer\.1.*query are one weight of the model") as caught:
        check_foldable(restored)
    assert caught.value.problems[0].where.endswith("layer.0.attention.self.query")
    assert "tolerance" not in caught.value.problems[0].hint
    restored.switch([])
    check_foldable(restored)


def test_blocks_that_are_one_module_are_merged(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ALBERT runs one block several times: one site, one update."""
    monkeypatch.setitem(FAMILIES, "albert", ("AlbertConfig", ENCODER | {"embedding_size": 16}, False))
    run = bench.train("training.lr=0.05", "adapter.targets=[all]", family="albert").run_dir
    assert lorakit.merge(run, out=tmp_path / "merged").largest_difference < 1e-4


def test_the_plain_loader_is_asked_too(finished: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What transformers makes of the folder by itself is compared, not what lorakit makes of it alone."""
    load = merging.load_plain

    def misread(*args: Any, **options: Any) -> tuple[torch.nn.Module, Any]:
        model, rows = load(*args, **options)
        with torch.no_grad():
            model.get_parameter("classifier.bias")[0] += 1
        return model, rows

    monkeypatch.setattr(merging, "load_plain", misread)
    with pytest.raises(RunError, match="as transformers loads it by itself"):
        lorakit.merge(finished.run_dir, out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_nothing_is_overwritten_without_force(copied: Path):
    first = lorakit.merge(copied)
    assert first.out == copied / "merged"
    with pytest.raises(UsageError, match="exists already") as caught:
        lorakit.merge(copied)
    assert (caught.value.exit_code, caught.value.problems[0].where) == (2, str(copied / "merged"))
    assert lorakit.merge(copied, force=True).out == first.out


def test_force_replaces_merged_models_and_nothing_else(copied: Path, tmp_path: Path):
    """A wrong --out must not cost a folder of somebody's work."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for target in (tmp_path / "precious", tmp_path / "file", copied, tmp_path, Path(".")):
        with pytest.raises(UsageError, match="is not replaced"):
            lorakit.merge(copied, out=target, force=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()
    assert (tmp_path / "file").exists()


def test_a_run_without_weights_is_not_merged(copied: Path, tmp_path: Path):
    shutil.rmtree(copied / "adapter")
    with pytest.raises(RunError, match="has no last adapter"):
        lorakit.merge(copied, out=tmp_path / "merged")
    with pytest.raises(UsageError, match="not a run folder"):
        lorakit.merge(tmp_path)


def test_shortcuts_that_do_not_fit_are_an_error(searched: TrainResult, tmp_path: Path):
    merged = lorakit.merge(searched.run_dir, out=tmp_path / "merged")
    assert merged.kept
    with edited_json(tmp_path / "merged" / "lorakit.json") as record:
        record["shortcuts"]["sites"][0]["rank"] += 1
    with pytest.raises(RunError):
        lorakit.load(tmp_path / "merged")
    with edited_json(tmp_path / "merged" / "lorakit.json") as record:
        record["shortcuts"]["sites"][0]["name"] = "bert.encoder.layer.9.res1"
    with pytest.raises(RunError, match="do not fit this model"):
        lorakit.load(tmp_path / "merged")


def test_merging_is_silent(finished: TrainResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    lorakit.merge(finished.run_dir, out=tmp_path / "merged")
    assert capfd.readouterr() == ("", "")


def test_a_shortcut_tensor_that_is_missing_is_an_error(searched: TrainResult, tmp_path: Path):
    """Not a shortcut that quietly adds nothing."""
    lorakit.merge(searched.run_dir, out=tmp_path / "merged")
    path = tmp_path / "merged" / "lorakit_model.safetensors"
    tensors = load_file(path)
    lost = next(name for name in tensors if name.endswith(".B"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, path)
    with pytest.raises(RunError, match=f"tensor {lost} is missing"):
        lorakit.load(tmp_path / "merged")
