"""A recipe becomes a run: which folder, what is in it, what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.runs import SEARCH, Bench, records

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.recipe.load import load_recipe
from lorakit.workflow.setup import assemble, only_sites_see_tokens
from lorakit.workflow.train import TrainResult


def test_the_folder_holds_what_the_design_says(finished: TrainResult, searched: TrainResult):
    common = {"recipe.yaml", "adapter", "best", "metrics.jsonl", "summary.json", "environment.json", "checkpoints"}
    assert {path.name for path in finished.run_dir.iterdir()} >= common | {"report"}
    assert {path.name for path in searched.run_dir.iterdir()} >= common | {"report", "timeline.jsonl"}
    assert {path.name for path in (searched.run_dir / "report").iterdir()} == {"curves.png", "sites.png"}
    assert {path.name for path in (finished.run_dir / "report").iterdir()} == {"curves.png"}
    assert (finished.run_dir / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for run in (finished.run_dir, searched.run_dir):
        suffixes = {path.suffix for path in run.rglob("*") if path.is_file()}
        assert suffixes <= {".safetensors", ".json", ".jsonl", ".yaml", ".png"}  # nothing that could hold a pickle


def test_the_summary_is_the_result(finished: TrainResult):
    assert read_json(finished.run_dir / "summary.json") == json.loads(json.dumps(finished.to_dict()))
    assert finished.task == "custom"
    assert finished.metric == "accuracy"
    assert (finished.sites_on, finished.sites_total) == (4, 4)
    assert finished.adapter_parameters == finished.carried_parameters == 4 * 4 * 64
    assert finished.seconds > finished.search_seconds == 0


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        ((), True),
        (("adapter.method=dora",), True),
        (SEARCH, False),  # with shortcuts
        (("search.method=heterolora",), True),
        (("adapter.method=adalora", "search.method=adalora"), True),
        (("search.method=prilora",), False),
        (("search.method=lora_drop",), False),
        (("adapter.shortcuts=[res1]",), False),
        (("adapter.method=houlsby", "adapter.dropout=0"), True),
        (("adapter.method=prompt_tuning", "adapter.dropout=0"), False),
        (("adapter.updates=[hidden_key]", "adapter.dropout=0"), False),
        (("adapter.method=drop_bp",), False),
        (("adapter.method=roselora",), True),
    ],
)
def test_tokens_are_left_out_where_nothing_else_sees_them(settings: tuple[str, ...], alone: bool, bench: Bench):
    assert only_sites_see_tokens(assemble(bench.load(*settings))) is alone


def test_a_search_keeps_to_its_budget(searched: TrainResult):
    assert 0 < searched.sites_on < searched.sites_total
    assert 0 < searched.adapter_parameters <= searched.budget
    assert searched.seconds > searched.search_seconds > 0
    for tick in map(json.loads, (searched.run_dir / "timeline.jsonl").read_text().splitlines()):
        assert tick["parameters"] <= tick["budget"] == searched.budget


def test_training_the_resolved_recipe_again_gives_the_same(bench: Bench, searched: TrainResult, tmp_path: Path):
    again = lorakit.train(load_recipe(searched.run_dir / "recipe.yaml"), run_dir=tmp_path / "again")
    assert records(again.run_dir) == records(searched.run_dir)
    assert (again.run_dir / "recipe.yaml").read_text().split("\n\n", 1)[1] == (
        searched.run_dir / "recipe.yaml"
    ).read_text().split("\n\n", 1)[1]


@pytest.mark.parametrize("kind", ["pair", "number", "sst2"])
def test_every_kind_of_task_trains(bench: Bench, kind: str):
    result = bench.train("training.epochs=1", kind=kind)
    expected = {"pair": {"accuracy", "f1"}, "number": {"pearson", "spearman", "mse"}, "sst2": {"accuracy"}}
    assert set(result.last) == expected[kind]


@pytest.mark.parametrize("family", ["gpt2", "llama", "deberta_v2", "opt_postnorm"])
def test_every_kind_of_model_trains(bench: Bench, family: str):
    result = bench.train("training.max_steps=2", "adapter.targets=[all]", family=family)
    assert (
        result.adapter_parameters == lorakit.plan(bench.load("adapter.targets=[all]", family=family)).adapter_parameters
    )


def test_it_learns(bench: Bench):
    """A happy word among the words: above what always answering the same gives."""
    result = bench.train("training.epochs=30", "training.lr=0.01", "adapter.rank=8", "adapter.targets=[all]")
    rows = (bench.data() / "validation.csv").read_text()
    happy = rows.count(",happy,") / 30
    assert result.best["accuracy"] > max(happy, 1 - happy)
