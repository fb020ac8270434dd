"""A run whose search takes rank units: stopped and resumed, evaluated, merged, and exported with a rank for each module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from support.runs import Bench, StopAt, records
from support.thinned import as_parameter
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.errors import Interrupted
from lorakit.workflow.predict import Classifier

SEARCH = ("adapter.targets=[q,v,up]", "search.every=0.34", "search.warmup=0.1", "search.tail=0.25", "training.lr=0.02")
CASES = {
    "adalora": ("search.method=adalora", "adapter.method=adalora", "adapter.rank=4", "search.uniform_rank=2"),
    "sora": ("search.method=sora", "adapter.method=sora", "search.enable=0.5", "search.options={threshold: 0.001}"),
    "dynamic_dora": ("search.method=dynamic_dora", "adapter.method=trilora", "search.uniform_rank=2", "run.seed=1"),
    "squeeze": ("search.method=squeeze", "adapter.rank=4", "search.uniform_rank=2", "search.warmup=0", "search.tail=0"),
    "adalora with lora": ("search.method=adalora", "adapter.method=lora", "search.enable=0.4"),
}
SHORTCUTS = ("adapter.shortcuts=[res1,mid]", "adapter.decomposition=magnitude")
TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun", "no joke was told in this very long story ."]


def without(*slow: str) -> list[Any]:
    """All cases; those that have a nearer test of the same are slow."""
    return [as_parameter(case, slow=case in slow) for case in CASES]


def logits(classifier: Classifier) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = classifier.model(**classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    return result


@pytest.mark.parametrize("case", without("sora", "dynamic_dora", "adalora with lora"))
def test_saved_merged_and_exported(bench: Bench, tmp_path: Path, case: str) -> None:
    result = bench.train(*SEARCH, *CASES[case])
    run = result.run_dir
    timeline = read_jsonl(run / "timeline.jsonl")
    assert all(tick["parameters"] <= tick["budget"] for tick in timeline)
    assert timeline[-1]["budget"] == result.budget >= result.adapter_parameters == timeline[-1]["parameters"]
    ranks = {name: rank for name, rank in timeline[-1]["ranks"].items() if rank}
    assert len(set(timeline[-1]["ranks"].values())) > 1
    assert lorakit.evaluate(run, task="custom").scores == result.last
    ours = logits(lorakit.load(run))

    merged = lorakit.merge(run, out=tmp_path / "merged")
    assert merged.plain
    assert merged.flips == 0
    assert_close(logits(lorakit.load(tmp_path / "merged")), ours, rtol=1e-4, atol=1e-5)

    assert lorakit.export(run, out=tmp_path / "peft").kind == "LORA"
    config = read_json(tmp_path / "peft" / "adapter_config.json")
    assert {name: config["rank_pattern"].get(name, config["r"]) for name in config["target_modules"]} == ranks
    base = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    twin = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    with torch.no_grad():
        inputs = lorakit.load(run).tokenizer(TEXTS, padding=True, return_tensors="pt")
        assert_close(twin(**inputs).logits, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", without("squeeze", "adalora with lora"))
def test_stopped_between_ticks_and_at_one_it_ends_as_if_it_were_not(bench: Bench, tmp_path: Path, case: str) -> None:
    """With shortcuts and a magnitude beside the units; accumulating, so that a step is several backward passes."""
    settings = (*SEARCH, *CASES[case], *SHORTCUTS, "training.accumulate=2", "search.every=0.4", "training.epochs=3")
    whole = bench.train(*settings, name="whole")
    for step, resume in ((4, False), (5, True)):
        with pytest.raises(Interrupted):
            bench.train(*settings, hooks=[StopAt(step)], run_dir=tmp_path / "run", resume=resume, name="whole")
    torch.manual_seed(99)
    again = bench.train(*settings, run_dir=tmp_path / "run", resume=True, name="whole")
    assert records(again.run_dir) == records(whole.run_dir)
    assert lorakit.evaluate(again.run_dir, task="custom").scores == whole.last
