"""Rows of several models in one pass: each as its own model computes it, grouped by model and gathered by line."""

from __future__ import annotations

import pytest
import torch
from support.runs import Bench

from lorakit.adapters import mixed_batch
from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.mixed_batch import MixedRows
from lorakit.backbone.shared import SharedBackbone
from lorakit.workflow.setup import adapt, assemble

IDS = torch.tensor([[2, *range(number + 4, number + 11), 3] for number in range(6)])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
SIDES = {  # ranks and places that differ, one without an adapter on the other's, and one that is no sum
    "two": ("adapter.rank=2", "adapter.targets=[q,v]"),
    "four": ("adapter.rank=4", "adapter.targets=[q,up]"),
    "dora": ("adapter.method=dora", "adapter.targets=[k]", "adapter.dropout=0"),
}


def opened(bench: Bench, family: str, *names: str) -> tuple[MixedRows, dict[str, AdaptedModel]]:
    """Models on one backbone with random values in what they train, and what computes their rows."""
    shared, models = SharedBackbone(), {}
    generator = torch.Generator().manual_seed(1)
    for name in names:
        adapted = models[name] = adapt(assemble(bench.load(*SIDES[name], family=family), shared=shared))
        with torch.no_grad():
            for tensor in adapted.trained():
                tensor.parameter.add_(0.3 * torch.randn(tensor.parameter.shape, generator=generator))
    for adapted in models.values():
        adapted.model.double().eval()  # so that nothing but a mistake is seen
    base = shared.another(shared.model.config).base_model.double()
    paths = {module: path for path, module in models[names[0]].backbone.model.base_model.named_modules()}
    rows = MixedRows(base, [paths[layer] for _, layer in models[names[0]].backbone.anatomy.layers])
    two = {name: tensor[:2] for name, tensor in BATCH.items()}
    assert [rows.plug(name, adapted, two) for name, adapted in models.items()] == [""] * len(models)
    return rows, models


@pytest.mark.parametrize(("family", "few"), [("bert", 0), ("bert", 99), ("gpt2", 99)])
@torch.inference_mode()
def test_each_row_is_its_model_s(bench: Bench, monkeypatch: pytest.MonkeyPatch, family: str, few: int):
    monkeypatch.setattr(mixed_batch, "FEW", few)  # none gathered, all gathered
    rows, models = opened(bench, family, "two", "four")
    pretrained = rows.base(**BATCH).last_hidden_state
    lines = [("two", slice(0, 2)), ("four", slice(2, 3)), ("nobody", slice(3, 4)), ("two", slice(4, 6))]
    found = rows(BATCH, lines).last_hidden_state
    for name, own in lines:
        expected = pretrained if name == "nobody" else models[name].backbone.model.base_model(**BATCH).last_hidden_state
        assert torch.allclose(found[own], expected[own], rtol=0, atol=1e-12)
    assert not torch.allclose(found[:2], pretrained[:2], atol=1e-2)
    for name in models:
        rows.unplug(name)
    assert torch.equal(rows.base(**BATCH).last_hidden_state, pretrained)


@torch.inference_mode()
def test_no_sum_is_computed_by_its_own_module(bench: Bench):
    rows, models = opened(bench, "bert", "two", "dora")
    found = rows(BATCH, [("dora", slice(0, 3)), ("two", slice(3, 6))]).last_hidden_state
    for name, own in (("dora", slice(0, 3)), ("two", slice(3, 6))):
        expected = models[name].backbone.model.base_model(**BATCH).last_hidden_state[own]
        assert torch.allclose(found[own], expected, rtol=0, atol=1e-12)
