"""Adapters on somebody's own model: what trains, and what is refused."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import ENCODER, SMALL
from support.own_loop import BATCH, Net, logits, some_steps
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

import lorakit
from lorakit.errors import LorakitError, RecipeError, RunError, UsageError
from lorakit.workflow.own_loop.adapted import Adapted

WIDTH, LAYERS = ENCODER["hidden_size"], ENCODER["num_hidden_layers"]


def test_exactly_what_is_told_trains_and_the_function_is_that_of_before(fresh: Callable[[], Any]):
    model = fresh()
    before = logits(model)
    adapted = lorakit.adapt(model, method="dora", rank=3, targets=["q", "v"], shortcuts=["res1"])
    assert adapted.model is model
    assert torch.equal(logits(model), before)
    told = adapted.trained()
    assert {id(t.parameter) for t in told} == {id(p) for p in model.parameters() if p.requires_grad}
    sites, shortcuts = 2 * LAYERS, LAYERS
    adapters = sites * (3 * 2 * WIDTH + WIDTH) + shortcuts * 3 * 2 * WIDTH
    assert sum(t.parameter.numel() for t in told if t.role != "head") == adapters
    assert {t.name for t in told if t.role == "head"} == {"classifier.weight", "classifier.bias"}
    assert f"{adapters:,} adapter parameters and {2 * WIDTH + 2} of the head" in repr(adapted)


def test_groups_have_the_rates_of_each_role(fresh: Callable[[], Any]):
    adapted = lorakit.adapt(fresh(), method="lora_plus", targets="q")
    groups = adapted.groups(lr=1e-3, head_lr=5e-2, weight_decay=0.1)
    held = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {"A": 1e-3, "B": 16e-3, "head": 5e-2}
    for tensor in adapted.trained():
        decay = 0.1 if tensor.parameter.ndim > 1 else 0.0
        assert held.pop(id(tensor.parameter)) == pytest.approx((expected[tensor.role], decay))
    assert not held


def test_any_module_is_adapted_by_the_names_of_its_linear_modules(tmp_path: Path):
    model = Net()
    x = torch.randn(4, 5)
    before = model(x)
    adapted = lorakit.adapt(copy.deepcopy(model), rank=2, targets=["first", "other"], head="out")
    assert torch.equal(adapted.model(x), before)
    assert {t.site for t in adapted.trained()} == {"first", "other", None}
    assert sum(t.parameter.numel() for t in adapted.trained()) == 2 * (5 + 7) + 2 * (7 + 6) + 6 * 2 + 2
    for tensor in adapted.trained():
        tensor.parameter.data += 0.1
    again = lorakit.attach_saved(copy.deepcopy(model), adapted.save(tmp_path / "adapter"))
    assert torch.equal(again.model(x), adapted.model(x))
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
    torch.testing.assert_close(adapted.merge()(x), again.model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "drao"}, "did you mean 'dora'"),
        ({"targets": ["querry"]}, "did you mean 'query'"),
        ({"rnak": 3}, "did you mean 'rank'"),
        ({"shortcuts": ["res3"]}, "res1"),
        ({"head": "clasifier"}, "did you mean 'classifier'"),
        ({"rank": 99}, "does not fit site"),
        ({"method": "relora"}, "lorakit train with adapter.method=relora"),
        ({"method": "eva"}, r"calibration=\[batch"),
        ({"calibration": [BATCH]}, "looks at no data"),
        ({"method": "loftq"}, "none are rounded"),
        ({"start": "runs/demo-0"}, "lorakit.attach_saved"),
        ({"method": "x_lora"}, "mixes the adapters of finished runs"),
        ({"method": "lora_moe", "experts": ["runs/a-0", "runs/b-0"]}, "adapter.experts: is for lorakit train"),
        ({"method": "eva", "init_batches": 2}, "adapter.init_batches: is for lorakit train"),
        ({"dropout": nn.Dropout()}, "no setting is"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_and_leaves_no_trace(fresh: Callable[[], Any], settings: dict[str, Any], message: str):
    model = fresh()
    trained, names = [p.requires_grad for p in model.parameters()], set(model.state_dict())
    with pytest.raises(LorakitError, match=message):
        lorakit.adapt(model, **settings)
    assert ([p.requires_grad for p in model.parameters()], set(model.state_dict())) == (trained, names)


def test_of_an_unknown_module_nothing_but_names_is_known():
    for settings, message in (
        ({}, "'q' matches no module"),
        ({"targets": ["othr"]}, "did you mean 'other'"),
        ({"targets": ["other"], "shortcuts": ["res1"]}, "only the Linear modules are known"),
        ({"method": "bitfit"}, "only the Linear modules are known"),
    ):
        with pytest.raises(RecipeError, match=message):
            lorakit.adapt(Net(), rank=2, **settings)
    with pytest.raises(UsageError, match="no Linear module"):
        lorakit.adapt(nn.Sequential(nn.ReLU()), targets="all")


def test_a_second_set_of_adapters_and_wrapped_models_are_refused(fresh: Callable[[], Any]):
    model = fresh()
    lorakit.adapt(model)
    with pytest.raises(UsageError, match="adapters of lorakit already"):
        lorakit.adapt(model)
    for wrapped in (nn.DataParallel(fresh()), torch.compile(fresh())):
        with pytest.raises(UsageError, match="adapt the model first"):
            lorakit.adapt(wrapped)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"is an nn\.Module"):
        lorakit.adapt("bert")  # type: ignore[arg-type]


def test_modules_that_others_have_changed_are_refused():
    normed, hooked, tied = Net(), Net(), Net()
    nn.utils.parametrizations.weight_norm(normed.other)
    hooked.other.forward = lambda x: x  # type: ignore[method-assign]
    for model, message in ((normed, "weight of other is computed"), (hooked, "stands in for the forward of other")):
        with pytest.raises(UsageError, match=message):
            lorakit.adapt(model, rank=2, targets="other")
    tied.other, tied.first = nn.Linear(5, 5), nn.Linear(5, 5)
    tied.other.weight = tied.first.weight
    adapted = lorakit.adapt(tied, rank=2, targets="other")
    with pytest.raises(RunError, match="other and first are one weight"):
        adapted.merge()


def test_a_language_model_is_not_trained_whole_at_its_words():
    config = LlamaConfig(**SMALL, num_key_value_heads=2)
    adapted = lorakit.adapt(LlamaForCausalLM(config), rank=2)
    assert {t.role for t in adapted.trained()} == {"A", "B"}


def test_rates_that_another_optimiser_would_not_keep_are_said(
    fresh: Callable[[], Any], caplog: pytest.LogCaptureFixture
):
    lorakit.adapt(fresh())
    assert not caplog.records
    lorakit.adapt(fresh(), "lora_plus")
    assert "role B learn 16 times as fast" in caplog.text


def test_modes_dtypes_and_frozen_parts_are_as_they_should_be(fresh: Callable[[], Any], tmp_path: Path):
    model = fresh().to(torch.bfloat16).train()
    model.bert.embeddings.eval()
    model.requires_grad_(False)
    adapted = lorakit.adapt(model, "dora", rank=2)
    assert model.training
    assert not model.bert.embeddings.dropout.training
    assert {t.parameter.dtype for t in adapted.trained()} == {torch.float32}
    assert all(t.parameter.requires_grad for t in adapted.trained())
    some_steps(adapted)
    adapted.save(tmp_path / "adapter")
    again = lorakit.attach_saved(fresh().to(torch.bfloat16), tmp_path / "adapter")
    assert torch.equal(logits(again.model), logits(model.eval()))
    with pytest.raises(RunError, match="was trained on other weights"):
        lorakit.attach_saved(fresh(), tmp_path / "adapter")
    before = logits(model)
    adapted.merge()
    torch.testing.assert_close(logits(model), before, atol=0.02, rtol=0.02)


def test_copies_pickles_and_state_dicts_keep_the_adapters(fresh: Callable[[], Any]):
    adapted = lorakit.adapt(fresh(), targets="all", shortcuts=["res1", "mid"])
    some_steps(adapted)
    expected = logits(adapted.model)
    copied = copy.deepcopy(adapted)
    some_steps(copied)
    assert torch.equal(logits(adapted.model), expected)
    assert not torch.equal(logits(copied.model), expected)
    stream = io.BytesIO()
    torch.save(adapted, stream)
    stream.seek(0)
    assert torch.equal(logits(torch.load(stream, weights_only=False).model), expected)
    other = lorakit.adapt(fresh(), targets="all", shortcuts=["res1", "mid"])
    other.model.load_state_dict(adapted.model.state_dict())
    assert torch.equal(logits(other.model), expected)


@pytest.mark.slow  # the compiler's imports
def test_a_compiled_model_follows_the_switches(fresh: Callable[[], Any]):
    adapted = lorakit.adapt(fresh(), shortcuts=["res1"])
    some_steps(adapted)
    compiled = torch.compile(adapted.model, backend="eager")
    names = [site.name for site in adapted.inside.sites]
    for on in (names, names[:1], [], names):
        adapted.inside.switch(on)
        torch.testing.assert_close(logits(compiled), logits(adapted.model))  # type: ignore[arg-type]


def test_gradients_are_the_same_with_layers_that_recompute(fresh: Callable[[], Any]):
    def gradients(way: Callable[[Adapted], None]) -> Mapping[str, torch.Tensor]:
        model = fresh().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        adapted = lorakit.adapt(model, shortcuts=["res1", "mid"])
        way(adapted)
        model(**BATCH).loss.backward()
        return {t.name: t.parameter.grad for t in adapted.trained()}  # type: ignore[misc]

    expected = gradients(lambda adapted: None)
    for way in (Adapted.recompute_layers, lambda adapted: adapted.model.activation_checkpointing_enable()):
        torch.testing.assert_close(gradients(way), expected)


def test_a_start_from_rows_takes_them(fresh: Callable[[], Any]):
    model = fresh()
    before = logits(model)
    adapted = lorakit.adapt(model, "eva", rank=3, targets="q", calibration=[BATCH])
    assert torch.equal(logits(model), before)
    inputs = model.bert.embeddings(BATCH["input_ids"]).detach().reshape(-1, WIDTH)
    components = torch.linalg.svd(inputs - inputs.mean(0), full_matrices=False).Vh[:3]  # principal components, by torch
    a = next(iter(adapted.inside.adapters.values())).delta.get_parameter("A").detach()
    assert pytest.approx(torch.ones(3) * a.norm(dim=1).mean(), rel=1e-3) == (a @ components.T).svd().S


def test_a_search_and_a_start_from_rows_go_with_any_module():
    rows = [{"x": torch.randn(5), "labels": torch.tensor(i % 2)} for i in range(16)]
    batch = {"x": torch.stack([row["x"] for row in rows]), "labels": torch.stack([row["labels"] for row in rows])}

    def loss(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["labels"])

    for method in ("eva", "lora_ga"):
        model = Net()
        before = model(batch["x"])
        adapted = lorakit.adapt(model, method, rank=2, targets=["first", "other"], calibration=[batch], loss=loss)
        torch.testing.assert_close(model(batch["x"]), before)
    search = lorakit.Search("heterolora", adapted, budget=26, every=0.5, batches=1, rows=rows, batch_size=4, loss=loss)
    optimizer = torch.optim.AdamW(adapted.groups(lr=1e-2))
    search.begin(optimizer, steps=4, steps_per_epoch=4)
    for _ in range(4):
        search.before_step()
        loss(model, batch).backward()
        search.after_backward()
        optimizer.step()
        search.after_step()
        optimizer.zero_grad()
    search.end()
    assert [tick["parameters"] for tick in search.timeline] in ([24, 24], [26, 26], [24, 26], [26, 24])
    untold = lorakit.Search("heterolora", adapted, budget=26, batches=1, rows=rows, batch_size=4)
    untold.begin(optimizer, steps=5, steps_per_epoch=5)
    with pytest.raises(UsageError, match="gives no loss for a batch of x, labels"):
        untold.before_step()
