"""A run whose experts are weighed by its input is a run like others, but for what would need one matrix that says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import Bench, StopAt, records

import lorakit
from lorakit.errors import Interrupted, LorakitError, RecipeError

MOV = ("adapter.method=mov", "adapter.dropout=0")
MIXTURE = ("adapter.method=mixlora", "training.max_steps=2", "training.gradient_checkpointing=true")


@pytest.fixture(scope="module")
def run(bench: Bench) -> Path:
    return bench.train(*MIXTURE).run_dir


@pytest.mark.parametrize(
    "what",
    [
        lambda run, out: lorakit.merge(run, out=out),
        lambda run, out: lorakit.export(run, to="peft", out=out),
        lambda run, out: lorakit.combine([run, run], out=out, method="linear"),
        lambda run, out: lorakit.compress(run, out=out, method="svd", rank=1),
        lambda run, out: lorakit.rank_curve(run, "1"),
    ],
    ids=["merge", "export", "combine", "compress", "ranks"],
)
def test_what_needs_one_matrix_is_refused_with_the_reason(
    run: Path, tmp_path: Path, what: Callable[[Path, Path], Any]
) -> None:
    with pytest.raises(LorakitError, match=r"no one matrix says the same|no rank units"):
        what(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_nothing_merges_merging_is_not_what_to_try(run: Path, tmp_path: Path) -> None:
    with pytest.raises(LorakitError) as caught:
        lorakit.export(run, to="peft", out=tmp_path / "out")
    assert "merge" not in str(caught.value)


def test_a_search_switches_sites_with_all_their_experts(bench: Bench) -> None:
    """HeteroLoRA's budget pays for whole mixtures, routers too: of 3 (4 (32 + 32) + 32) numbers each, two in four."""
    settings = ("adapter.method=lora_moe", "adapter.options={experts: 3}", "search.method=heterolora")
    result = bench.train(*settings, "search.enable=0.5", "search.batches=1", "training.max_steps=2", name="searched")
    assert (result.sites_on, result.sites_total) == (2, 4)
    assert result.adapter_parameters == result.budget == 2 * 3 * (4 * (32 + 32) + 32)


def test_resumed_it_ends_the_same(bench: Bench, run: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        bench.train(*MIXTURE, run_dir=tmp_path / "run", hooks=[StopAt(1)])
    bench.train(*MIXTURE, run_dir=tmp_path / "run", resume=True)
    assert records(tmp_path / "run") == records(run)


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        (("adapter.method=lora_moe", "search.method=adalora"), "search.method", "single rank units"),
        (("adapter.method=lora_moe", "search.method=squeeze"), "search.method", "no plain product"),
        (("adapter.method=mixlora", "search.method=lora_drop"), "search.method", "whole rows"),
        (("adapter.method=hydralora", "adapter.decomposition=magnitude"), "adapter.decomposition", "no sum"),
        (("adapter.method=mov", "adapter.dropout=0.1"), "adapter.dropout", "no branch"),
        (("adapter.method=lora_moe", "adapter.options={experts: 2, top_k: 3}"), "adapter.options", "top_k=3"),
        (("adapter.method=mixlora", "adapter.options={experts: 3}"), "adapter.options", "takes 4 factors"),
        (
            ("adapter.method=lora_moe", "adapter.updates=[rose]"),
            "adapter.updates",
            "'A' of delta 'experts' has no ranks",
        ),
        ((*MOV, "adapter.updates=[sparse_mask]"), "adapter.updates", "this adapter has none"),
        (("adapter.method=lora_moe", "adapter.updates=[diff_pruning]"), "adapter.updates", "no site has any"),
        (("adapter.method=lora_moe", "adapter.updates=[glora_supernet]"), "adapter.updates", "no configurations"),
    ],
)
def test_what_does_not_go_with_a_mixture_is_told_by_a_plan(
    bench: Bench, settings: tuple[str, ...], key: str, what: str
) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        lorakit.plan(bench.load(*settings))
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("adapter.method=mixlora",), "adapter.targets"),
        (("adapter.method=lora_moe", "adapter.targets=[all]", "adapter.updates=[load_balance]"), "adapter.updates"),
    ],
)
def test_where_a_projection_sees_no_rows_of_tokens_a_plan_says_so(
    bench: Bench, settings: tuple[str, ...], key: str
) -> None:
    """DeBERTa's relative positions go through projections too: in no row, and at times as many as a batch has tokens."""
    with pytest.raises(RecipeError, match="pos_key_proj is not given those of one row after the other") as caught:
        lorakit.plan(bench.load(*settings, family="deberta_v2"))
    assert [problem.key for problem in caught.value.problems] == [key]
