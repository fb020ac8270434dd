"""Norms and embeddings that train beside adapters: counted, trained, kept and merged; and longlora, which is made of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.models import GATED, VOCABULARY
from support.runs import Bench
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.errors import RecipeError, RunError
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.train import TrainResult

LONG = ("adapter.method=longlora", "adapter.update_options={group: 4}", "model.rope_scaling=auto")
KNOWN = 16
"""Positions of the model, of which rows have up to 32 tokens."""
TEXTS = ["a good film", "the dull cast sleeps and never runs and it was not a very good joke in this very long story ."]


@pytest.fixture(scope="module")
def run(bench: Bench) -> TrainResult:
    model = bench.backbone("llama", max_position_embeddings=KNOWN)
    return bench.train(*LONG, f'model.name="{model}"', "training.epochs=1", "training.lr=0.01", family="llama")


@pytest.fixture(scope="module")
def merged(run: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lorakit.merge(run.run_dir, out=tmp_path_factory.mktemp("merged") / "out").out


@torch.no_grad()
def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits


def test_it_is_merged_into_what_plain_transformers_computes(run: TrainResult, merged: Path):
    ours, plain = lorakit.load(run.run_dir), AutoModelForSequenceClassification.from_pretrained(merged).eval()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert plain.config.rope_parameters | {"rope_type": "linear", "factor": 2.0} == plain.config.rope_parameters
    assert len(tokenizer(TEXTS[1])["input_ids"]) > KNOWN
    assert_close(logits(plain, tokenizer), logits(ours.model, ours.tokenizer), rtol=1e-4, atol=1e-5)


def test_norms_embeddings_and_the_attention_are_what_has_changed(bench: Bench, merged: Path):
    before = load_file(bench.backbone("llama", max_position_embeddings=KNOWN) / "model.safetensors")
    after = {name.removeprefix("model."): tensor for name, tensor in load_file(merged / "model.safetensors").items()}
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved == {name for name in before if "self_attn" in name or "norm" in name or "embed_tokens" in name}


def test_a_plan_counts_all_of_it(bench: Bench, run: TrainResult):
    plan = lorakit.plan(bench.load(*LONG, family="llama"))
    width, layers, heads, groups, each = 32, 2, 4, GATED["num_key_value_heads"], GATED["head_dim"]
    sides = [(width, heads * each), (width, groups * each), (width, groups * each), (heads * each, width)]
    loras = layers * sum(4 * (inside + outside) for inside, outside in sides)
    assert plan.adapter_parameters == loras + (2 * layers + 1) * width + len(VOCABULARY) * width
    assert run.adapter_parameters == plan.adapter_parameters


def test_peft_is_told_why_it_gets_none(run: TrainResult, tmp_path: Path):
    with pytest.raises(RunError, match="rope_scaling"):
        lorakit.export(run.run_dir, out=tmp_path / "peft")


def test_peft_gets_one_whose_positions_are_not_divided(bench: Bench, tmp_path: Path):
    settings = ("model.rope_scaling=auto", "training.max_steps=1")  # for rows no longer than the model's own
    plain = bench.train(*settings, family="llama").run_dir
    assert (lorakit.export(plain, out=tmp_path / "peft").out / "adapter_config.json").is_file()


@pytest.mark.parametrize("method", ["vera", "dora"])
def test_other_methods_take_it_too(bench: Bench, method: str):
    """What sites share is as large as the projections need it, and fresh adapters change nothing."""
    settings = (f"adapter.method={method}", "adapter.dropout=0", "adapter.in_full=[embeddings,norms]")
    adapted = [adapt(assemble(bench.load(*settings[:2], *rest, family="llama"))) for rest in ((), settings[2:])]
    plain, full = (
        {
            f"{group}.{name}": tuple(tensor.shape)
            for group, held in each.shared.items()
            for name, tensor, _ in held.tensors()
        }
        for each in adapted
    )
    assert plain == full
    extra = set(adapted[1].adapters) - set(adapted[0].adapters)
    assert {adapted[1].adapters[name].site.role for name in extra} == {"embedding", "norm"}
    tokens = torch.arange(4, 12)[None]
    with torch.no_grad():
        before, after = (each.model.eval()(input_ids=tokens).logits for each in adapted)
    assert_close(after, before)


def test_a_quantised_base_goes_with_it(bench: Bench, tmp_path: Path):
    settings = (*LONG[:2], "model.quantization=int4", "model.quantization_group=16", "training.max_steps=2")
    run = bench.train(*settings, family="llama", run_dir=tmp_path / "run").run_dir
    assert {site["state"] for site in read_json(run / "adapter" / "lorakit.json")["sites"]} == {"on"}
    assert lorakit.merge(run, out=tmp_path / "merged").plain


def test_an_allocation_leaves_it_on(bench: Bench):
    site = "model.layers.0.self_attn.q_proj"
    settings = ("adapter.in_full=[norms]", f"adapter.allocation={{{site}: 2}}")
    sites = assemble(bench.load(*settings, family="llama")).sites
    assert [each.name for each in sites if each.role != "norm"] == [site]
    assert len(sites) == 1 + 5


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["adapter.in_full=[heads]"], "adapter.in_full", "norms, embeddings"),
        (["adapter.in_full=[norms]", "search.method=heterolora"], "adapter.in_full", "search.method"),
        (["adapter.method=longlora", "search.method=adalora"], "adapter.in_full", "search.method"),
        (["adapter.in_full=[norms]", "training.freeze_below=1"], "adapter.in_full", "training.freeze_below"),
        (["adapter.in_full=[norms]", "adapter.method=prefix_tuning"], "adapter.in_full", "sits on the keys and values"),
        (["adapter.in_full=[norms]", "adapter.method=layer_norm"], "adapter.in_full", "sits on every LayerNorm"),
        (["adapter.in_full=[norms]", "adapter.method=relora"], "adapter.in_full", "update 'restart'"),
        (["adapter.in_full=[norms]", "adapter.updates=[rose]"], "adapter.in_full", "update 'rose'"),
        (["adapter.in_full=[norms]", "model.dtype=bfloat16"], "model.dtype", "float32"),
        (["model.rope_scaling=0.5"], "model.rope_scaling", "at least 1"),
        (["model.rope_scaling=linear"], "model.rope_scaling", "auto"),
    ],
)
def test_what_does_not_go_with_it_is_refused(bench: Bench, overrides: list[str], key: str, says: str):
    with pytest.raises(RecipeError, match=says) as caught:
        lorakit.plan(bench.load(*overrides, "adapter.dropout=0", family="llama"))
    assert key in [problem.key for problem in caught.value.problems]
