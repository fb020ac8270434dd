"""Adapters on somebody's own model that are saved, put on again, and folded in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support.models import ENCODER, SMALL
from support.own_loop import logits, some_steps
from support.runs import edited_json
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.errors import RecipeError, RunError, UsageError

WIDTH, LAYERS = ENCODER["hidden_size"], ENCODER["num_hidden_layers"]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dora"},
        {"shortcuts": ["res1", "mid"]},
        {"method": "bitfit"},
        {"method": "prefix_tuning"},
    ],
    ids=str,
)
def test_what_is_saved_is_put_on_again_bit_for_bit(fresh: Callable[[], Any], tmp_path: Path, settings: dict[str, Any]):
    adapted = lorakit.adapt(fresh(), **settings, seed=3)
    some_steps(adapted)
    folder = adapted.save(tmp_path / "adapter")
    again = lorakit.attach_saved(fresh().train(), folder)
    assert again.model.training
    assert torch.equal(logits(again.model.eval()), logits(adapted.model))
    assert [(t.name, t.role) for t in again.trained()] == [(t.name, t.role) for t in adapted.trained()]
    some_steps(again)
    some_steps(adapted)
    torch.testing.assert_close(logits(again.model), logits(adapted.model))  # and it trains on in the same way
    adapted.save(tmp_path / "adapter")  # over the earlier one


def test_peft_loads_plain_lora_as_it_was_saved(fresh: Callable[[], Any], tmp_path: Path):
    adapted = lorakit.adapt(fresh(), targets=["q", "down"])
    some_steps(adapted)
    theirs = PeftModel.from_pretrained(fresh(), adapted.save(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(theirs), logits(adapted.model))


@pytest.mark.parametrize("method", ["dora", "tied_lora", "layer_norm"])
def test_what_is_folded_in_is_a_plain_model_again(fresh: Callable[[], Any], tmp_path: Path, method: str):
    model, plain = fresh().train(), fresh()
    adapted = lorakit.adapt(model, method)
    some_steps(adapted)
    model.eval()
    expected = logits(model)
    assert adapted.merge() is model
    torch.testing.assert_close(logits(model), expected)
    assert not torch.allclose(logits(model), logits(plain))
    assert set(model.state_dict()) == set(plain.state_dict())
    model.save_pretrained(tmp_path / "merged")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), logits(model))
    with pytest.raises(UsageError, match="folded into the model"):
        adapted.save(tmp_path / "adapter")
    lorakit.adapt(model)  # it can be adapted anew


def test_what_no_weight_can_hold_is_not_folded(fresh: Callable[[], Any]):
    for settings, reason in (({"shortcuts": ["res1"]}, "a shortcut"), ({"method": "houlsby"}, "cannot be merged")):
        adapted = lorakit.adapt(fresh(), **settings)
        some_steps(adapted, 1)
        before = logits(adapted.model)
        with pytest.raises(RunError, match=reason) as caught:
            adapted.merge()
        assert "run" not in str(caught.value)
        assert torch.equal(logits(adapted.model), before)


def test_a_module_that_does_not_prove_itself_is_not_folded(fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch):
    adapted = lorakit.adapt(fresh(), targets="q")
    some_steps(adapted, 1)
    before = logits(adapted.model)
    kind = type(next(iter(adapted.inside.adapters.values())).delta)
    monkeypatch.setattr(kind, "effective_weight", lambda self, weight, scale: weight + 0.01)
    with pytest.raises(RunError, match="gives other outputs"):
        adapted.merge()
    assert torch.equal(logits(adapted.model), before)


def test_a_head_under_two_names_is_one(tmp_path: Path):
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    plain, ids = copy.deepcopy(model), torch.tensor([[3, 4, 5]])
    with pytest.raises(RecipeError, match=r"lm_head\.weight is one tensor with transformer\.wte\.weight") as caught:
        lorakit.adapt(model, rank=2, head="lm_head")
    assert caught.value.problems[0].hint.startswith("head='transformer.wte.weight'")
    adapted = lorakit.adapt(model, rank=2, head=".*wte.*")
    for tensor in adapted.trained():
        tensor.parameter.data += 0.1
    again = lorakit.attach_saved(plain, adapted.save(tmp_path / "adapter"))
    assert torch.equal(again.model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: BertModel(BertConfig(**ENCODER)), "PeftModelForFeatureExtraction"),
        (lambda: BertForTokenClassification(BertConfig(**ENCODER)), "PeftModelForTokenClassification"),
        (lambda: BertForQuestionAnswering(BertConfig(**ENCODER)), "PeftModelForQuestionAnswering"),
        (lambda: BertForMaskedLM(BertConfig(**ENCODER)), "PeftModel"),
        (lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)), "PeftModelForCausalLM"),
    ],
)
def test_peft_takes_a_model_for_what_it_is(made: Callable[[], Any], expected: str, tmp_path: Path):
    model = made().eval()
    plain, ids = copy.deepcopy(model), torch.tensor([[3, 4, 5]])
    adapted = lorakit.adapt(model, rank=2)
    for tensor in adapted.trained():
        tensor.parameter.data += 0.1
    theirs = PeftModel.from_pretrained(plain, adapted.save(tmp_path / "adapter")).eval()
    assert type(theirs).__name__ == expected
    torch.testing.assert_close(theirs(ids)[0], model(ids)[0])


def test_what_is_not_saved_is_said(fresh: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture):
    adapted = copy.deepcopy(lorakit.adapt(fresh()))
    some_steps(adapted)
    expected = logits(adapted.model)
    for name, times in (("checkpoint-1", 1), ("checkpoint-2", 1), ("final", 2)):
        adapted.model.save_pretrained(tmp_path / name)
        assert caplog.text.count("has the frozen weights with adapters beside") == times
    adapted.save(tmp_path / "adapter")
    adapted.model.bert.pooler.dense.weight.requires_grad_(True)
    assert "trains too" not in caplog.text
    adapted.save(tmp_path / "adapter")
    assert "bert.pooler.dense.weight trains too, and is not saved" in caplog.text
    caplog.clear()
    adapted.merge().save_pretrained(tmp_path / "merged")
    assert not caplog.records
    again = BertForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again), expected)


def test_a_folder_that_is_none_of_ours_is_told_apart(fresh: Callable[[], Any], tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    adapted = lorakit.adapt(fresh())
    with pytest.raises(UsageError, match="is not replaced"):
        adapted.save(tmp_path / "mine")
    with pytest.raises(RunError, match="neither a saved adapter nor a run"):
        lorakit.attach_saved(fresh(), tmp_path / "mine")
    saved = adapted.save(tmp_path / "adapter")
    assert read_json(saved / "lorakit.json")["adapter"]["method"] == "lora"
    model, names = fresh(), set(fresh().state_dict())
    with edited_json(saved / "lorakit.json") as told:
        told["sites"] = told["sites"][:1]
    with pytest.raises(RunError, match="are not those of this model"):
        lorakit.attach_saved(model, saved)
    assert set(model.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    three = BertForSequenceClassification(BertConfig(**ENCODER, num_labels=3))
    with pytest.raises(RunError, match="head was trained for"):
        lorakit.attach_saved(three, saved)


def normed() -> torch.nn.Module:
    """Two linear layers with a batch norm between them, always of the same numbers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2))


def test_running_statistics_are_saved_and_put_on_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    x = torch.arange(32.0).view(8, 4)
    adapted = lorakit.adapt(normed().train(), rank=2, targets=["0", "2"])
    adapted.save(tmp_path / "fresh")
    assert not caplog.messages
    adapted.model(x)
    folder = adapted.save(tmp_path / "adapter")
    assert (
        "1.running_mean has moved since the start, and is saved in buffers.safetensors (3 such buffers)" in caplog.text
    )
    expected = adapted.model.eval()(x)
    again = lorakit.attach_saved(normed().eval(), folder)
    assert torch.equal(again.model(x), expected)
    other = lorakit.attach_saved(normed().eval(), again.save(tmp_path / "again"))
    assert torch.equal(other.model(x), expected)
    (folder / "buffers.safetensors").unlink()
    with pytest.raises(RunError, match=r"buffers\.safetensors is missing"):
        lorakit.attach_saved(normed().eval(), folder)
    moved = normed().train()
    moved(x)
    with pytest.raises(RunError, match="was trained on other weights: 3 tensors"):
        lorakit.attach_saved(moved, tmp_path / "again")
