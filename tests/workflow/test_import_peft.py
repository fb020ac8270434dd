"""What PEFT saved, with random weights and a random head, computes the same as a run of lorakit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.runs import Bench, edited_json
from support.thinned import thinned
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.artifacts.peft.import_ import read_peft
from lorakit.errors import LorakitError, RecipeError, RunError, UsageError
from lorakit.workflow import import_peft as importing
from lorakit.workflow.import_peft import ImportResult
from lorakit.workflow.train import TrainResult

TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]
QV, ATTENTION = ["query", "value"], ["c_attn", "attn.c_proj"]
Config = Callable[[], Any]


def made(bench: Bench, config: Any, out: Path, *, family: str = "bert", labels: int = 2) -> peft.PeftModel:
    """A PEFT adapter saved in ``out``, all that it saves at random."""
    base: Any = AutoModelForSequenceClassification.from_pretrained(
        bench.backbone(family), num_labels=labels, pad_token_id=0
    )
    twin: Any = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    twin.save_pretrained(out)
    return twin.eval()


def custom(bench: Bench) -> list[str]:
    """The settings of the bench's own task."""
    data = bench.data()
    return [
        f"task.train={data}/train.csv",
        f"task.validation={data}/validation.csv",
        "task.text=sentence",
        "task.label=label",
    ]


def brought_in(bench: Bench, source: Path, out: Path, *settings: str) -> ImportResult:
    return lorakit.import_adapter(source, task="custom", out=out, overrides=[*custom(bench), *settings], offline=True)


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return result


CASES: dict[str, tuple[str, Config]] = {
    "lora": ("bert", lambda: peft.LoraConfig(r=4, lora_alpha=7, target_modules=QV, task_type="SEQ_CLS")),
    "lora by regex": (
        "bert",
        lambda: peft.LoraConfig(r=4, target_modules=r".*layer\.1\..*(query|output\.dense)", task_type="SEQ_CLS"),
    ),
    "lora on one layer": (
        "bert",
        lambda: peft.LoraConfig(r=4, target_modules=QV, layers_to_transform=[1], task_type="SEQ_CLS"),
    ),
    "all linear": ("llama", lambda: peft.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS")),
    "rslora": ("bert", lambda: peft.LoraConfig(r=3, use_rslora=True, target_modules=QV, task_type="SEQ_CLS")),
    "rslora with two ranks": (
        "bert",
        lambda: peft.LoraConfig(
            r=3, use_rslora=True, target_modules=QV, rank_pattern={"layer.0.*query": 5}, task_type="SEQ_CLS"
        ),
    ),
    "ranks and alphas a module": (
        "bert",
        lambda: peft.LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=QV,
            rank_pattern={"query": 2},
            alpha_pattern={r"layer\.1\..*value": 5, "layer.0.attention.self.query": 3},
            task_type="SEQ_CLS",
        ),
    ),
    "dora": ("bert", lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=QV, task_type="SEQ_CLS")),
    "dora on Conv1D": (
        "gpt2",
        lambda: peft.LoraConfig(r=4, use_dora=True, fan_in_fan_out=True, target_modules=ATTENTION, task_type="SEQ_CLS"),
    ),
    "Conv1D": (
        "gpt2",
        lambda: peft.LoraConfig(r=4, fan_in_fan_out=True, target_modules=ATTENTION, task_type="SEQ_CLS"),
    ),
    "adalora": (
        "bert",
        lambda: peft.AdaLoraConfig(init_r=6, lora_alpha=9, total_step=10, target_modules=QV, task_type="SEQ_CLS"),
    ),
    "vera": ("bert", lambda: peft.VeraConfig(r=5, target_modules=["query", "intermediate.dense"], task_type="SEQ_CLS")),
    "ia3": (
        "bert",
        lambda: peft.IA3Config(
            target_modules=["key", "value", r"intermediate.dense", "layer.0.output.dense", "layer.1.output.dense"],
            feedforward_modules=["layer.0.output.dense", "layer.1.output.dense"],
            task_type="SEQ_CLS",
        ),
    ),
    "norms": (
        "bert",
        lambda: peft.LNTuningConfig(target_modules=["attention.output.LayerNorm"], task_type="SEQ_CLS"),
    ),
    "a head of two layers": ("roberta", lambda: peft.LoraConfig(r=4, target_modules=QV, task_type="SEQ_CLS")),
    "a new pooler": (
        "deberta_v2",
        lambda: peft.LoraConfig(
            r=4,
            target_modules=["query_proj"],
            modules_to_save=["classifier", "pooler"],
            task_type="SEQ_CLS",
        ),
    ),
}


@pytest.mark.parametrize("case", thinned(CASES, 2))
def test_an_imported_adapter_gives_pefts_logits(bench: Bench, tmp_path: Path, case: str):
    family, config = CASES[case]
    twin = made(bench, config(), tmp_path / "peft", family=family)
    result = brought_in(bench, tmp_path / "peft", tmp_path / "run")
    assert result.head
    ours = lorakit.load(tmp_path / "run")
    twin.base_model.model.config.pad_token_id = ours.model.config.pad_token_id  # a decoder finds each text's end by it
    expected = logits(twin, ours.tokenizer)
    assert_close(logits(ours.model, ours.tokenizer), expected, rtol=1e-4, atol=1e-5)
    ours.adapted.switch([])
    assert not torch.allclose(logits(ours.model, ours.tokenizer), expected, atol=1e-2)


def test_adalora_pruned_to_ranks_of_its_own(bench: Bench, tmp_path: Path):
    """As PEFT saves and loads it after its allocation: rows of E that are masked are cut away, one module whole."""
    twin: Any = made(bench, CASES["adalora"][1](), tmp_path / "full")
    config = twin.peft_config["default"]
    keep = {}
    for number, name in enumerate(name for name, _ in twin.base_model.model.named_parameters() if "lora_E" in name):
        keep[name] = [place < number for place in range(6)]
    config.rank_pattern = keep
    twin.save_pretrained(tmp_path / "peft")
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    again: Any = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    result = brought_in(bench, tmp_path / "peft", tmp_path / "run")
    assert (result.sites, result.ranks) == (3, (1, 3))
    ours = lorakit.load(tmp_path / "run")
    assert_close(logits(ours.model, ours.tokenizer), logits(again, ours.tokenizer), rtol=1e-4, atol=1e-5)


def test_the_run_is_one_that_every_command_takes(bench: Bench, tmp_path: Path):
    """eval, predict, merge and export, and PEFT reads what is exported again."""
    twin = made(bench, CASES["ranks and alphas a module"][1](), tmp_path / "peft")
    brought_in(bench, tmp_path / "peft", tmp_path / "run", "run.seed=3", "training.lr=0.001")
    run = tmp_path / "run"
    scored = lorakit.evaluate(run, task="custom")
    assert 0 <= scored.scores["accuracy"] <= 1
    ours = lorakit.load(run)
    expected = logits(twin, ours.tokenizer)
    assert [each.label for each in lorakit.predict(run, TEXTS)] == [
        ("happy", "plain")[int(row.argmax())] for row in expected
    ]
    lorakit.merge(run, out=tmp_path / "merged")
    merged = lorakit.load(tmp_path / "merged")
    assert_close(logits(merged.model, merged.tokenizer), expected, rtol=1e-4, atol=1e-5)
    lorakit.export(run, out=tmp_path / "exported")
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    again: Any = peft.PeftModel.from_pretrained(base, tmp_path / "exported").eval()
    assert_close(logits(again, ours.tokenizer), expected, rtol=1e-4, atol=1e-5)
    summary = read_json(run / "summary.json")
    assert (summary["seed"], summary["imported"], summary["steps"]) == (3, str(tmp_path / "peft"), 0)


def test_over_mixed_precisions_the_run_keeps_the_weights(bench: Bench, tmp_path: Path):
    made(bench, CASES["lora"][1](), tmp_path / "peft")
    mixed = ("model.quantization=mixed", "model.quantization_bits=4.5")
    run = brought_in(bench, tmp_path / "peft", tmp_path / "run", *mixed).out
    assert (run / "base" / "quantised.safetensors").is_file()
    assert lorakit.evaluate(run)


def test_another_base_model_is_told(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    made(bench, CASES["lora"][1](), tmp_path / "peft")
    with edited_json(tmp_path / "peft" / "adapter_config.json") as config:
        config["base_model_name_or_path"] = "somewhere/else"
    with caplog.at_level("INFO", "lorakit"):
        result = brought_in(bench, tmp_path / "peft", tmp_path / "run", f"model.name={bench.backbone()}")
    assert "made for somewhere/else" in caplog.text
    assert result.model == str(bench.backbone())
    with pytest.raises(LorakitError, match="somewhere/else"):
        brought_in(bench, tmp_path / "peft", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_bundled_base_model_is_known_by_its_name(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """PEFT writes the folder that it was installed in, which is another one on every machine."""
    monkeypatch.setattr(importing, "BUNDLED", {"bundled:tiny": None})
    monkeypatch.setattr(importing, "bundled_folder", lambda name: bench.backbone())
    assert importing.portable_name(f"{bench.backbone()}/.") == "bundled:tiny"
    assert importing.portable_name(str(tmp_path)) == str(tmp_path)
    assert importing.portable_name("") == ""
    made(bench, CASES["lora"][1](), tmp_path / "peft")
    assert importing.draft_recipe(read_peft(tmp_path / "peft"), "sst2", []).recipe.model.name == "bundled:tiny"
    assert "made for" not in caplog.text


def test_what_peft_does_not_tell_is_told(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """PEFT writes no label names: its outputs are taken by place, or in the order that a base model with the same labels has."""
    made(bench, peft.LoraConfig(r=4, target_modules=QV, task_type="SEQ_CLS"), tmp_path / "peft")
    run = brought_in(bench, tmp_path / "peft", tmp_path / "run").out
    assert (
        "does not say which of its head's outputs is which label: they are taken, in this order, for happy, plain"
        in caplog.text
    )
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), id2label={0: "plain", 1: "happy"})
    base.save_pretrained(tmp_path / "base")
    for file in bench.backbone().glob("*token*"):
        shutil.copy(file, tmp_path / "base")
    turned = brought_in(bench, tmp_path / "peft", tmp_path / "turned", f"model.name={tmp_path / 'base'}").out
    assert "are taken to be in the base model's order of names, and put into the order happy, plain" in caplog.text
    one, other = (lorakit.load(path).predict_proba(TEXTS) for path in (run, turned))
    assert_close(one, other[:, ::-1].copy(), rtol=1e-5, atol=1e-6)


def test_the_base_model_s_own_head_is_taken_by_name_or_when_asked(bench: Bench, tmp_path: Path):
    """Of an adapter that brings none."""
    made(bench, peft.LoraConfig(r=4, target_modules=QV), tmp_path / "peft")
    base: Any = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), id2label={0: "plain", 1: "happy"})
    found = {}
    for names in (["plain", "happy"], ["x", "y"]):
        base.config.id2label = dict(enumerate(names))
        base.save_pretrained(tmp_path / names[0])
        for file in bench.backbone().glob("*token*"):
            shutil.copy(file, tmp_path / names[0])
        settings = [f"model.name={tmp_path / names[0]}"]
        if names == ["x", "y"]:
            with pytest.raises(
                RunError, match=r"head for x, y: a new one takes its place.*the adapter brings none"
            ) as caught:
                brought_in(bench, tmp_path / "peft", tmp_path / "refused", *settings)
            assert "model.head=keep" in caught.value.problems[0].hint
            settings.append("model.head=keep")
        run = brought_in(bench, tmp_path / "peft", tmp_path / f"run-{names[0]}", *settings).out
        found[names[0]] = lorakit.load(run).predict_proba(TEXTS)
    assert_close(found["plain"], found["x"][:, ::-1].copy(), rtol=1e-5, atol=1e-6)


def test_a_fresh_adapter_without_a_head_is_refused(bench: Bench, tmp_path: Path):
    made(bench, peft.LoraConfig(r=4, target_modules=QV), tmp_path / "peft")
    with pytest.raises(RunError, match=r"classifier.bias is missing: the base model has no trained head"):
        brought_in(bench, tmp_path / "peft", tmp_path / "run")


def config_with(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with edited_json(folder / "adapter_config.json") as config:
            config.update(changes)

    return damage


def tensors_with(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return damage


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, "adapter_model.bin is a pickle"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "does not describe an adapter"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (config_with(peft_type="LOHA"), "peft_type 'LOHA' cannot be imported"),
        (config_with(bias="all", lora_bias=True), "nothing for lora_bias=True, bias=all"),
        (config_with(a_new_option=3), "nothing for a_new_option=3"),
        (config_with(init_lora_weights="pissa"), "changed the base model's weights"),
        (config_with(r="four"), "r: 'four' cannot be used"),
        (config_with(r=None), "r must be numbers"),
        (config_with(lora_dropout=1.5), r"lora_dropout: 1.5 cannot be used\n.*at least 0, less than 1"),
        (config_with(lora_alpha=float("nan")), "NaN is no number"),
        (tensors_with(lambda t: t[f"{QUERY}.lora_A.weight"].fill_(float("nan"))), "lora_A.weight is not finite"),
        (
            tensors_with(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.ones(4, 32, dtype=torch.int8)})),
            "torch.int8, and not of floating point",
        ),
        (
            tensors_with(lambda t: [t.pop(f"base_model.model.classifier.{name}") for name in ("weight", "bias")]),
            "classifier.bias is missing: the base model has no trained head, and the adapter brings none",
        ),
        (config_with(target_modules="(query"), r"target_modules: '\(query' is no regular expression"),
        (config_with(target_modules=3), "target_modules: 3 cannot be used"),
        (config_with(rank_pattern={"*": 3}), r"rank_pattern: '\*' is no regular expression"),
        (config_with(alpha_pattern={"query": "much"}), "alpha_pattern: .* cannot be used"),
        (config_with(modules_to_save=[["classifier"]]), "modules_to_save: .* cannot be used"),
        (
            tensors_with(lambda t: t.update({f"{QUERY}.lora_A.weight": torch.tensor(1.0)})),
            "lora_A of .*query is a single",
        ),
        (config_with(r=5), "rank 4 in adapter_model.safetensors and 5 in adapter_config.json"),
        (config_with(target_modules=["query"]), r"tensors of .*layer.0.*value, which target_modules does not name"),
        (
            config_with(target_modules=["query", "value", "key"]),
            r"no tensors of .*layer.0.*key, which target_modules names",
        ),
        (config_with(use_dora=True), r"query lacks lora_magnitude_vector"),
        (tensors_with(lambda t: t.pop(f"{QUERY}.lora_B.weight")), "query lacks lora_B"),
        (
            tensors_with(lambda t: t.update({f"{QUERY}.lora_B.weight": torch.zeros(31, 4)})),
            r"query.B' has shape \[31, 4\]",
        ),
        (tensors_with(lambda t: t.pop("base_model.model.classifier.bias")), "brings only a part of its head"),
        (
            tensors_with(lambda t: t.update({"base_model.model.classifier.weight": torch.zeros(3, 32)})),
            r"classifier.weight is \[3, 32\] in the adapter and \[2, 32\] for this task",
        ),
        (
            tensors_with(lambda t: t.update({"base_model.model.bert.pooler.dense.bias": torch.zeros(32)})),
            "bert.pooler.dense.bias was trained whole",
        ),
        (tensors_with(lambda t: t.update({"elsewhere": torch.zeros(3)})), "elsewhere is not named as PEFT"),
        (
            tensors_with(
                lambda t: t.update(
                    {f"base_model.model.bert.pooler.dense.lora_{x}.weight": torch.zeros(4, 4) for x in "AB"}
                )
            ),
            "bert.pooler.dense is outside the layers",
        ),
        (
            tensors_with(
                lambda t: t.update({f"base_model.model.who.lora_{x}.weight": torch.zeros(4, 4) for x in "AB"})
            ),
            "who is no module of this model",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_run_error_and_writes_nothing(
    bench: Bench, tmp_path: Path, damage: Callable[[Path], None], message: str
):
    made(bench, CASES["lora"][1](), tmp_path / "peft")
    damage(tmp_path / "peft")
    with pytest.raises(RunError, match=message) as caught:
        brought_in(bench, tmp_path / "peft", tmp_path / "run")
    assert len(caught.value.problems) == 1
    assert str(tmp_path / "peft") in caught.value.problems[0].where
    assert str(caught.value).count(str(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peft"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "castom"}, "no task called 'castom'"),
        ({"overrides": ["adapter.rank=3"]}, "adapter.rank is what the imported adapter decides"),
        ({"overrides": ["model.readout=auto"]}, "model.readout is what the imported adapter decides"),
        ({"overrides": ["task.name=sst2"]}, "task.name=sst2 is not --task custom"),
        ({"overrides": ["traning.lr=3"]}, "no section or key 'traning.lr'"),
        ({"overrides": ["task.text=nothing"]}, "must be given for a custom task"),
    ],
)
def test_a_mistaken_call_is_a_usage_error(bench: Bench, tmp_path: Path, arguments: dict[str, Any], message: str):
    made(bench, CASES["lora"][1](), tmp_path / "peft")
    with pytest.raises(UsageError, match=message) as caught:
        lorakit.import_adapter(tmp_path / "peft", **{"task": "custom", "out": tmp_path / "run", **arguments})
    assert caught.value.exit_code == 2
    assert "/tmp/tmp" not in str(caught.value)


def test_only_a_peft_folder_and_only_a_new_place(bench: Bench, finished: TrainResult, tmp_path: Path):
    for source, message in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "not a PEFT adapter"),
        (finished.run_dir, "is a run of lorakit"),
    ):
        with pytest.raises(UsageError, match=message):
            brought_in(bench, source, tmp_path / "run")
    (finished.run_dir / "adapter" / "adapter_config.json").stat()
    shortcuts = bench.train("training.max_steps=1", "adapter.shortcuts=[res1]").run_dir
    with pytest.raises(UsageError, match="parts that PEFT does not have"):
        brought_in(bench, shortcuts / "adapter", tmp_path / "run")
    made(bench, CASES["lora"][1](), tmp_path / "peft")
    before = (tmp_path / "peft" / "adapter_config.json").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        brought_in(bench, tmp_path / "peft", tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter_config.json").read_bytes() == before


def test_its_recipe_trains(bench: Bench, tmp_path: Path):
    """The recipe of an imported run is a whole one: training it again needs nothing else."""
    made(bench, CASES["lora on one layer"][1](), tmp_path / "peft")
    brought_in(bench, tmp_path / "peft", tmp_path / "run")
    loaded = lorakit.load_recipe(tmp_path / "run" / "recipe.yaml", ["training.max_steps=2"])
    result = lorakit.train(loaded, run_dir=tmp_path / "trained")
    assert (result.sites_total, result.steps) == (2, 2)
    assert json.loads((tmp_path / "trained" / "summary.json").read_text())["sites_on"] == 2
    assert isinstance(RecipeError("x"), UsageError)
