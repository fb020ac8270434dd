"""An exported adapter is the run's: for PEFT itself, head included; what PEFT cannot express is refused by name."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.runs import SEARCH, Bench
from support.thinned import as_parameter
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.artifacts.peft.export import PeftForm
from lorakit.errors import RunError, UsageError
from lorakit.workflow import export as exporting
from lorakit.workflow.train import TrainResult

SHORT = ("training.max_steps=6", "training.lr=0.05", "adapter.dropout=0")
TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return result


def in_peft(run: Path, out: Path, base: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the exported folder in PEFT, and those of the run."""
    ours = lorakit.load(run)
    config = ours.model.config
    plain: Any = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=config.num_labels, pad_token_id=config.pad_token_id
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # so PEFT speaks of keys it misses
        warnings.filterwarnings("ignore", "Unsupported layer type .*Norm")  # PEFT says it of its own LN_TUNING
        twin = peft.PeftModel.from_pretrained(plain, out)
    return logits(twin, ours.tokenizer), logits(ours.model, ours.tokenizer)


CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "lora": ("bert", "LORA", ("adapter.targets=[all]",)),
    "lora on Conv1D": ("gpt2", "LORA", ("adapter.targets=[all]",)),
    "rslora": ("bert", "LORA", ("adapter.method=rslora", "adapter.rank=3")),
    "dora": ("llama", "DoRA", ("adapter.method=dora",)),
    "diagonal": ("bert", "LORA", ("adapter.method=trilora",)),
    "anchored": ("gpt2", "LORA", ("adapter.method=pissa", "adapter.targets=[all]")),
    "anchored and decomposed": ("bert", "DoRA", ("adapter.method=pissa", "adapter.decomposition=magnitude")),
    "anchored, wider than the matrix": ("bert", "LORA", ("adapter.method=pissa", "adapter.rank=20")),
    "vera": ("bert", "VERA", ("adapter.method=vera", "adapter.rank=40", "adapter.targets=[all]")),
    "vera with a scale, on Conv1D": (
        "gpt2",
        "VERA",
        ("adapter.method=vera", "adapter.rank=5", "adapter.scale=constant", "adapter.alpha=3"),
    ),
    "ia3": ("bert", "IA3", ("adapter.method=ia3",)),
    "ia3 on Conv1D": ("gpt2", "IA3", ("adapter.method=ia3", "adapter.targets=[all]")),
    "norms": ("bert", "LN_TUNING", ("adapter.method=layer_norm",)),
    "norms without a bias": ("llama", "LN_TUNING", ("adapter.method=layer_norm",)),
    "some sites off": ("bert", "LORA", ("search.method=heterolora", "search.enable=0.5", "search.every=0.5")),
    "some of vera's sites off": (
        "bert",
        "VERA",
        (
            "adapter.method=vera",
            "adapter.rank=5",
            "adapter.targets=[all]",
            "search.method=heterolora",
            "search.enable=0.4",
        ),
    ),
}
PLAINER = {  # than another case of the same kind
    *("lora", "lora on Conv1D", "rslora", "diagonal", "anchored", "anchored and decomposed"),
    *("vera", "some of vera's sites off", "ia3", "norms"),
}


@pytest.mark.parametrize("case", [as_parameter(case, slow=case in PLAINER) for case in CASES])
def test_peft_gives_the_runs_logits(bench: Bench, tmp_path: Path, case: str):
    family, kind, settings = CASES[case]
    run = bench.train(*SHORT, *settings, family=family).run_dir
    result = lorakit.export(run, out=tmp_path / "out")
    assert (result.kind, result.rows) == (kind, 30)
    assert result.largest_difference < 1e-4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    theirs, ours = in_peft(run, tmp_path / "out", bench.backbone(family))
    assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    fresh = lorakit.load(run)
    fresh.adapted.switch([])
    assert not torch.allclose(logits(fresh.model, fresh.tokenizer), ours, atol=1e-3)


def test_an_anchored_update_has_twice_the_rank_and_no_more_than_the_matrix(bench: Bench, tmp_path: Path):
    run = bench.train(*SHORT, "adapter.method=pissa", "adapter.rank=3").run_dir
    assert lorakit.export(run, out=tmp_path / "a").ranks == (6, 6)
    run = bench.train(*SHORT, "adapter.method=pissa", "adapter.rank=20").run_dir
    assert lorakit.export(run, out=tmp_path / "b").ranks == (32, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SEARCH, "PEFT cannot express .*res1.*shortcuts"),
        (("adapter.shortcuts=[res1,mid]",), r"PEFT cannot express .*\.res1 and 2 more: they are shortcuts"),
    ],
)
def test_what_peft_cannot_express_is_one_message(bench: Bench, tmp_path: Path, settings: tuple[str, ...], message: str):
    run = bench.train(*SHORT, *settings, "search.enable=0.9" if settings == SEARCH else "run.seed=0").run_dir
    with pytest.raises(RunError, match=message) as caught:
        lorakit.export(run, out=tmp_path / "out")
    assert "lorakit merge" in caught.value.problems[0].hint
    assert list(tmp_path.iterdir()) == []


def test_the_card_says_how_to_use_it_and_that_works(
    bench: Bench, finished: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named as it is from where one stands, whatever the command named."""
    monkeypatch.chdir(tmp_path)
    result = lorakit.export(finished.run_dir, out=tmp_path / 'an "out"')
    text = (tmp_path / 'an "out"' / "README.md").read_text()
    assert str(tmp_path) not in text
    assert text.startswith("---\nlibrary_name: peft\n")  # the hub knows no base model that is a folder here
    assert f"A LORA adapter for `{bench.backbone()}` that" in text
    assert "happy, plain" in text
    assert f"{finished.last['accuracy']:.4f}" in text
    code = text.split("```python\n")[1].split("```")[0]
    assert result.load_line.splitlines()[:-1] == code.splitlines()[:-1]
    names: dict[str, Any] = {}
    exec(code, names)
    ours = lorakit.load(finished.run_dir)
    assert_close(logits(names["model"], ours.tokenizer), logits(ours.model, ours.tokenizer), rtol=1e-4, atol=1e-5)
    assert names["model"].config.id2label == {0: "happy", 1: "plain"}


def test_the_card_s_base_model_has_the_run_s_dtype(bench: Bench, tmp_path: Path):
    """A checkpoint in half precision, trained in float32: left to itself Transformers loads it in half precision."""
    half = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2).half()
    half.base_model.save_pretrained(tmp_path / "half")
    for file in bench.backbone().glob("*token*"):
        shutil.copy(file, tmp_path / "half")
    run = bench.train(*SHORT, f"model.name={tmp_path / 'half'}").run_dir
    made: dict[str, Any] = {}
    exec(lorakit.export(run, out=tmp_path / "out").load_line, made)
    ours = lorakit.load(run)
    assert made["base"].dtype == torch.float32
    assert_close(logits(made["model"], ours.tokenizer), logits(ours.model, ours.tokenizer), rtol=1e-5, atol=1e-6)


def with_head(bench: Bench, labels: list[str], out: Path) -> Path:
    """A base model with a random head for these labels."""
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(
        bench.backbone(), num_labels=len(labels), id2label=dict(enumerate(labels))
    )
    model.save_pretrained(out)
    for file in bench.backbone().glob("*token*"):
        shutil.copy(file, out)
    return out


def test_a_base_model_with_a_head_for_other_labels(bench: Bench, tmp_path: Path):
    """The card's lines load it too."""
    base = with_head(bench, ["a", "b", "c"], tmp_path / "base")
    run = bench.train(*SHORT, f"model.name={base}").run_dir
    made: dict[str, Any] = {}
    exec(lorakit.export(run, out=tmp_path / "out").load_line, made)
    ours = lorakit.load(run)
    assert_close(logits(made["model"], ours.tokenizer), logits(ours.model, ours.tokenizer), rtol=1e-5, atol=1e-6)


def test_an_export_says_its_labels_and_an_import_takes_them_by_name(
    bench: Bench, finished: TrainResult, tmp_path: Path
):
    """Also on a base model that has the same labels in another order."""
    out = lorakit.export(finished.run_dir, out=tmp_path / "out").out
    with safe_open(out / "adapter_model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["labels"]) == ["happy", "plain"]
    data = [f"task.train={bench.data()}/train.csv", "task.text=sentence", "task.label=label"]
    turned = with_head(bench, ["plain", "happy"], tmp_path / "turned")
    theirs = lorakit.load(finished.run_dir).predict_proba(TEXTS)
    for name, settings, order in (
        ("same", (), [0, 1]),
        ("other", ("task.labels=[plain,happy]",), [1, 0]),
        ("base", (f"model.name={turned}",), [0, 1]),
    ):
        run = lorakit.import_adapter(out, [*data, *settings], task="custom", out=tmp_path / name, offline=True).out
        assert_close(lorakit.load(run).predict_proba(TEXTS), theirs[:, order], rtol=1e-5, atol=1e-6)
    rows = (bench.data() / "train.csv").read_text().replace("plain", "sad")
    (tmp_path / "sad.csv").write_text(rows)
    with pytest.raises(RunError, match="head cannot be used: it is for happy, plain, this one for happy, sad"):
        lorakit.import_adapter(
            out, [*data, f"task.train={tmp_path / 'sad.csv'}"], task="custom", out=tmp_path / "sad", offline=True
        )


def test_peft_is_asked_where_it_is_installed(bench: Bench, finished: TrainResult, tmp_path: Path, monkeypatch):
    """What PEFT leaves out, or cannot read, fails the export; without PEFT lorakit reads it itself."""
    assert lorakit.export(finished.run_dir, out=tmp_path / "a").read_by == "peft"
    write = PeftForm.write

    def renamed(form: PeftForm, target: Path) -> None:
        lost = next(name for name in form.tensors if name.endswith("lora_A.weight"))
        tensors = {name.replace("layer.0", "layer.9") if name == lost else name: t for name, t in form.tensors.items()}
        write(replace(form, tensors=tensors), target)

    def broken(form: PeftForm, target: Path) -> None:
        write(replace(form, config=form.config | {"target_modules": ["nowhere"]}), target)

    for spoilt, message in ((renamed, "PEFT adapts other modules than the run.*layer.0"), (broken, "PEFT cannot read")):
        monkeypatch.setattr(PeftForm, "write", spoilt)
        with pytest.raises(RunError, match=message):
            lorakit.export(finished.run_dir, out=tmp_path / "b")
        assert not (tmp_path / "b").exists()
    monkeypatch.setattr(PeftForm, "write", write)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "peft", None)
    exported = lorakit.export(finished.run_dir, out=tmp_path / "c")
    assert (exported.read_by, exported.largest_difference < 1e-5) == ("lorakit", True)


def test_best_weights_are_exported_as_asked(bench: Bench, tmp_path: Path):
    run = bench.train("training.lr=0.05", "training.epochs=3", "evaluation.every_steps=2")
    assert run.best_step < run.steps
    for weights in ("last", "best"):
        lorakit.export(run.run_dir, out=tmp_path / weights, weights=weights)
        name = "base_model.model.classifier.weight"
        kept = {"last": "adapter", "best": "best"}[weights]
        written = load_file(tmp_path / weights / "adapter_model.safetensors")[name]
        assert torch.equal(written, load_file(run.run_dir / kept / "adapter_model.safetensors")[name])


def test_places_that_hold_something_else_are_not_replaced(finished: TrainResult, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    for force in (False, True):
        with pytest.raises(UsageError, match="is not replaced" if force else "exists already"):
            lorakit.export(finished.run_dir, out=tmp_path / "out", force=force)
    with pytest.raises(UsageError, match="is not replaced"):
        lorakit.export(finished.run_dir, out=finished.run_dir / "adapter", force=True)
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    lorakit.export(finished.run_dir, out=tmp_path / "again")
    lorakit.export(finished.run_dir, out=tmp_path / "again", force=True)
    assert read_json(tmp_path / "again" / "adapter_config.json")["peft_type"] == "LORA"


def test_more_than_the_tolerance_leaves_nothing(bench: Bench, tmp_path: Path):
    run = bench.train(*SHORT, "adapter.method=pissa").run_dir
    with pytest.raises(RunError, match="logits differ by"):
        lorakit.export(run, out=tmp_path / "out", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_form_is_told_before_anything_is_loaded(tmp_path: Path):
    with pytest.raises(UsageError, match="no form 'pest'") as caught:
        lorakit.export(tmp_path, to="pest")
    assert caught.value.problems[0].hint == "did you mean 'peft'?"
    assert json.dumps(caught.value.exit_code) == "2"
