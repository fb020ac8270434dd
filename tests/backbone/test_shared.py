"""Models of many runs hold the same frozen tensors, which are read once; each has a head and modules of its own."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from support.models import TinyModels

from lorakit.backbone import load as loading
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.backbone.shared import SharedBackbone, bytes_beside, named_tensors
from lorakit.errors import RunError
from lorakit.recipe.schema import ModelSection

IDS = torch.tensor([[2, 5, 6, 7, 8, 3]])
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp("models"))


def load(models: TinyModels, family: str, shared: SharedBackbone | None, labels: int, readout: str = "own") -> Backbone:
    section = ModelSection(name=str(models(family)), readout=readout)
    names = tuple(f"label {number}" for number in range(labels))
    return load_backbone(section, labels=names, regression=not labels, seed=3, offline=True, shared=shared)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama"])
@torch.no_grad()
def test_frozen_tensors_are_those_of_all(models: TinyModels, family: str):
    shared = SharedBackbone()
    with mock.patch.object(loading, "from_files", wraps=loading.from_files) as read:
        found = [load(models, family, shared, labels) for labels in (2, 3, 0)]
        found.append(load(models, family, shared, 4, "mean"))
    assert read.call_count == 1
    alone = load(models, family, None, 3)
    assert found[1].new_parts == alone.new_parts
    for backbone, labels in zip(found, (2, 3, 1, 4), strict=True):
        model = backbone.model
        assert model(input_ids=IDS, attention_mask=MASK).logits.shape == (1, labels)
        head = sum(model.get_parameter(name).nbytes for name in backbone.new_parts)
        assert bytes_beside(model, shared.model) == head
        assert {name for name, each in model.named_parameters() if each.requires_grad} == set(backbone.new_parts)
    base = [each.model.base_model(IDS, attention_mask=MASK).last_hidden_state for each in (*found, alone)]
    assert all(torch.equal(each, base[-1]) for each in base)


@torch.no_grad()
def test_what_one_changes_the_others_do_not_see(models: TinyModels):
    shared = SharedBackbone()
    one, other = (load(models, "bert", shared, 2) for _ in range(2))
    before = [each.clone() for _, each in named_tensors(shared.model)]
    logits = other.model(input_ids=IDS).logits
    one.model.classifier.weight.zero_()
    one.model.base_model.encoder.layer[0].forward = lambda states, *args, **kwargs: 0 * states
    one.model.config.id2label[0] = "another"
    one.tokenizer.model_input_names = ["input_ids"]
    assert torch.equal(other.model(input_ids=IDS).logits, logits)
    assert other.model.config.id2label[0] == "label 0"
    assert "attention_mask" in other.tokenizer.model_input_names
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, named_tensors(shared.model), strict=True))


def test_a_head_that_others_have_too_is_refused(models: TinyModels):
    shared = SharedBackbone()
    load(models, "bert", shared, 2)
    shared.own.clear()  # as of a model whose head cannot be told from the rest
    with pytest.raises(RunError, match=r"classifier.* is trained, and is no part of a BertForSequenceClassification"):
        load(models, "bert", shared, 2)
