"""What a data-driven init is told of the training data: the right numbers, from training rows alone, without a trace, and only once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from support.runs import SEARCH, Bench, StopAt, records
from support.thinned import crossed, thinned
from torch.nn import functional as F
from torch.testing import assert_close

import lorakit
from lorakit.errors import Interrupted, RunError
from lorakit.recipe.load import LoadedRecipe
from lorakit.tasks.batching import Encoded
from lorakit.workflow import calibrate as calibrating
from lorakit.workflow import prepare as preparing
from lorakit.workflow import search as searching
from lorakit.workflow import train as running
from lorakit.workflow.calibrate import Statistics, calibrate
from lorakit.workflow.parts import Parts
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import adapt, assemble

METHODS = ("eva", "corda_ipm", "corda_kpm", "lora_ga")
NARROW = ("model.dtype=bfloat16", "training.precision=bf16", "adapter.decomposition=magnitude")


def measured(loaded: LoadedRecipe) -> tuple[Parts, Encoded, Statistics]:
    parts = assemble(loaded)
    encoded = parts.encode("train")["train"]
    return parts, encoded, calibrate(parts, encoded)


def rows_of(encoded: Encoded) -> Iterator[dict[str, torch.Tensor]]:
    """Every training row alone: nothing is padded."""
    return (encoded.collate([row]) for row in range(len(encoded)))


def outputs(model: Any, row: dict[str, torch.Tensor]) -> Any:
    return model(**{name: tensor for name, tensor in row.items() if name != "labels"}, output_hidden_states=True)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_moments_are_those_of_every_token_and_of_no_padding(bench: Bench, family: str) -> None:
    """A layer's q reads the layer's input: in bert as it is, in llama behind its norm."""
    loaded = bench.load("adapter.method=eva", "adapter.targets=[q]", "adapter.init_batches=100", family=family)
    parts, encoded, statistics = measured(loaded)
    model = parts.backbone.model.eval()
    assert len(set(encoded.lengths)) > 3
    assert len(statistics) == 2
    for site in parts.sites:
        layer = parts.backbone.anatomy.layers[site.layer][1]
        norm = layer.input_layernorm if family == "llama" else torch.nn.Identity()
        with torch.no_grad():
            seen = [norm(outputs(model, row).hidden_states[site.layer][0]) for row in rows_of(encoded)]
        x = torch.cat(seen).double()
        assert len(x) == sum(encoded.lengths)
        assert_close(statistics[site.name]["covariance"].double(), x.T @ x / len(x), rtol=1e-4, atol=1e-4)
        assert_close(statistics[site.name]["mean"].double(), x.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_what_is_not_one_vector_a_token_counts_whole(bench: Bench) -> None:
    """DeBERTa projects its embeddings of relative positions too: 32 of them, as many as a batch of 8 rows of 4 tokens has."""
    settings = ("adapter.method=corda_ipm", "adapter.targets=[pos_key_proj]", "training.length_grouping=false")
    parts = assemble(bench.load(*settings, family="deberta_v2"))
    encoded = parts.encode("train")["train"]
    row = encoded.collate([0])
    short = {name: tensor[:, :4].repeat(8, 1) for name, tensor in row.items() if name != "labels"}
    short["attention_mask"][:, 2:] = 0
    with mock.patch.object(Encoded, "collate", return_value=short | {"labels": row["labels"].repeat(8)}):
        statistics = calibrate(parts, encoded)
    x = parts.backbone.model.deberta.encoder.get_rel_embedding().detach().double()
    assert x.shape == (32, 32)
    assert len(statistics) == 2
    for found in statistics.values():
        assert_close(found["covariance"].double(), x.T @ x / len(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), thinned([("bert", "one"), ("gpt2", "pair"), ("bert", "number")], 3))
def test_the_gradient_is_that_of_the_mean_loss_without_dropout(bench: Bench, family: str, kind: str) -> None:
    settings = ("adapter.method=lora_ga", "adapter.targets=[all]", "adapter.init_batches=100")
    parts, encoded, statistics = measured(bench.load(*settings, family=family, kind=kind))
    model = parts.backbone.model.eval()
    weights = [model.get_submodule(site.name).weight.requires_grad_() for site in parts.sites]
    loss = torch.zeros(())
    for row in rows_of(encoded):
        logits = outputs(model, row).logits
        if kind == "number":
            loss = loss + (logits[0, 0] - row["labels"][0]) ** 2 / len(encoded)
        else:
            loss = loss - F.log_softmax(logits, dim=-1)[0, row["labels"][0]] / len(encoded)
    for site, gradient in zip(parts.sites, torch.autograd.grad(loss, weights), strict=True):
        expected = gradient.T if site.kind == "conv1d" else gradient
        assert expected.shape == (site.out_features, site.in_features)
        found = statistics[site.name]["gradient"]
        assert_close(found, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))


def test_the_fisher_information_is_the_mean_of_each_row_s_squared_gradient(bench: Bench) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    settings = ("model.quantization=nf4", "adapter.init=lq_fisher", "adapter.init_batches=100")
    parts, encoded, statistics = measured(bench.load(*settings))
    model = parts.backbone.model.eval()
    weights = [model.get_submodule(site.name).weight.requires_grad_() for site in parts.sites]
    expected = [torch.zeros_like(weight) for weight in weights]
    for row in rows_of(encoded):
        loss = -F.log_softmax(outputs(model, row).logits, dim=-1)[0, row["labels"][0]]
        for total, gradient in zip(expected, torch.autograd.grad(loss, weights), strict=True):
            total += gradient.square() / len(encoded)
    for site, square in zip(parts.sites, expected, strict=True):
        assert_close(statistics[site.name]["fisher"], square, rtol=1e-3, atol=float(1e-4 * square.max()))


def test_the_rows_are_a_seeded_sample_of_the_training_rows(bench: Bench) -> None:
    seen = []

    def note(model: Any, sites: Any, batches: Any, objective: Any) -> dict[str, Any]:
        seen.append(sorted(tuple(row[row > 0].tolist()) for batch in batches for row in batch["input_ids"]))
        return {}

    with mock.patch.dict(calibrating.MEASURES, {"covariance": note}):
        for seed in (0, 0, 1):
            _, encoded, _ = measured(bench.load("adapter.method=eva", "adapter.init_batches=3", f"run.seed={seed}"))
    train = [tuple(encoded.collate([row])["input_ids"][0].tolist()) for row in range(len(encoded))]
    assert [len(rows) for rows in seen] == [3 * 8] * 3
    assert all(set(rows) <= set(train) for rows in seen)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("method", ["eva", "lora_ga"])
def test_it_is_the_same_every_time_and_leaves_no_trace(bench: Bench, method: str) -> None:
    parts = assemble(bench.load(f"adapter.method={method}"))
    encoded = parts.encode("train")["train"]
    model = parts.backbone.model.train()
    model.get_submodule(parts.sites[0].name).eval()
    trained = next(p for p in model.parameters() if p.requires_grad)
    trained.grad = torch.full_like(trained, 2.0)

    def trace() -> list[Any]:
        return [
            [module.training for module in model.modules()],
            [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
            [
                (id(p), p.requires_grad, p.grad is not None, p.device, float(p.detach().sum()))
                for p in model.parameters()
            ],
            float(trained.grad.sum()),
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]

    before = trace()
    first, again = calibrate(parts, encoded), calibrate(parts, encoded)
    assert trace() == before
    assert {name: set(found) for name, found in first.items()} == {name: set(found) for name, found in again.items()}
    for name, found in first.items():
        assert all(torch.equal(tensor, again[name][key]) for key, tensor in found.items())
        assert not any(tensor.requires_grad for tensor in found.values())
    with (
        mock.patch.object(calibrating.Objective, "logits", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        calibrate(parts, encoded)
    assert trace() == before


def test_an_init_that_looks_at_no_data_costs_no_pass(bench: Bench) -> None:
    with mock.patch.object(calibrating, "Objective", side_effect=AssertionError):
        for method in ("lora", "pissa", "olora"):
            assert measured(bench.load(f"adapter.method={method}"))[2] == {}


def test_numbers_that_are_not_finite_are_refused_by_name(bench: Bench) -> None:
    parts = assemble(bench.load("adapter.method=eva"))
    with torch.no_grad():
        parts.backbone.model.get_submodule(parts.sites[0].name).weight.fill_(float("nan"))
    with pytest.raises(RunError, match="finite numbers") as caught:
        calibrate(parts, parts.encode("train")["train"])
    assert "layer.1" in str(caught.value)  # the first site's own input is still right


@pytest.mark.parametrize("method", METHODS)
def test_a_training_starts_from_what_was_measured(bench: Bench, tmp_path: Path, method: str) -> None:
    settings = (f"adapter.method={method}", "adapter.targets=[q,up]", "adapter.shortcuts=[res1]")
    training = bench.prepare(tmp_path, *settings)
    parts, _, statistics = measured(bench.load(*settings))
    expected = adapt(parts, statistics=statistics).tensors()
    state = training.adapted.tensors()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    for site in parts.sites[:-2]:
        assert state[f"{site.name}.A"].any(), site.name


@pytest.mark.parametrize(("method", "setting"), crossed(METHODS, NARROW, turn=0))
def test_half_precision_and_magnitudes_start_from_finite_numbers(bench: Bench, method: str, setting: str) -> None:
    result = bench.train(f"adapter.method={method}", "training.max_steps=2", setting, "training.lr=1e-4")
    kept = restore_run(result.run_dir, "last").adapted
    assert all(tensor.isfinite().all() for tensor in kept.tensors().values())
    for adapter in kept.adapters.values():
        own = {name: tensor for name, tensor, _ in adapter.tensors()}
        start = own.get("start.A")
        assert start is None or not torch.equal(own["A"], start)
        assert own["A"].dtype == torch.float32


@contextmanager
def blindfolded() -> Iterator[None]:
    """Nothing may look at data for an init, nor start one: tensors are to come from files."""
    with ExitStack() as stack:
        for module in (preparing, searching):
            stack.enter_context(mock.patch.object(module, "calibrate", side_effect=AssertionError("it looks at data")))
        stack.enter_context(mock.patch.object(torch.linalg, "svd", side_effect=AssertionError("it starts anew")))
        yield


@pytest.mark.parametrize(
    "method", ["pissa", "lora_ga", *(pytest.param(each, marks=pytest.mark.slow) for each in ("eva", "corda_ipm"))]
)
def test_a_resumed_training_and_a_restored_run_start_nothing_anew(bench: Bench, tmp_path: Path, method: str) -> None:
    settings = (
        f"adapter.method={method}",
        "training.max_steps=6",
        "run.checkpoint_every=0.3",
        "adapter.targets=[q,up]",
    )
    whole = bench.train(*settings, run_dir=tmp_path / "whole")
    with pytest.raises(Interrupted):
        bench.train(*settings, run_dir=tmp_path / "broken", hooks=[StopAt(3)])
    with blindfolded():
        resumed = bench.train(*settings, run_dir=tmp_path / "broken", resume=True)
        restored = restore_run(resumed.run_dir, "last")
    assert records(resumed.run_dir) == records(whole.run_dir)
    kept: list[Any] = []
    save = mock.patch.object(running, "save_adapter", side_effect=lambda adapted, path: kept.append(adapted))
    with save, mock.patch.object(running, "check_saved"):
        bench.train(*settings, run_dir=tmp_path / "again")
    batch = restored.parts.encode("validation")["validation"].collate(range(9))
    with torch.no_grad():
        ours, theirs = (outputs(model.model.eval(), batch).logits for model in (restored.adapted, kept[0]))
    assert torch.equal(ours, theirs)
    assert all(torch.equal(tensor, kept[0].tensors()[name]) for name, tensor in restored.adapted.tensors().items())


def test_a_plan_looks_at_no_data(bench: Bench) -> None:
    with blindfolded():
        plan = lorakit.plan(bench.load("adapter.method=lora_ga"))
    assert plan.adapter_parameters == 4 * 4 * (32 + 32)
    plain = lorakit.plan(bench.load())
    assert plan.model_parameters == plain.model_parameters
    assert set(plan.notes) - set(plain.notes) == {"init 'lora_ga' looks at 8 training batches before the first step"}


@pytest.mark.parametrize("method", ["corda_ipm", "eva"])
def test_a_search_scores_the_model_that_a_training_starts_from(bench: Bench, method: str) -> None:
    seen: list[Statistics] = []

    def keep(parts: Parts, *, statistics: Statistics) -> Any:
        seen.append(statistics)
        return adapt(parts, statistics=statistics)

    with mock.patch.object(searching, "adapt", side_effect=keep):
        result = lorakit.search(bench.load(*SEARCH, f"adapter.method={method}"))
    expected = measured(bench.load(*SEARCH, f"adapter.method={method}"))[2]
    assert seen[0].keys() == expected.keys()
    assert all(torch.equal(seen[0][name][key], t) for name, found in expected.items() for key, t in found.items())
    assert any(site.score > 0 for site in result.ranked)
