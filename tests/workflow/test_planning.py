"""What a plan says is what a formula gives and what training then does."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import SMALL
from workflow.small_runs import SEARCH, TRAIN_ROWS, Bench

from lorakit import workflow
from lorakit.artifacts.files import read_jsonl
from lorakit.errors import RecipeError

WIDTH, WIDE, LAYERS = SMALL["hidden_size"], SMALL["intermediate_size"], SMALL["num_hidden_layers"]
SHAPES = {"q": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "up": (WIDE, WIDTH), "down": (WIDTH, WIDE)}
HEAD = 2 * WIDTH + 2


def test_counts_are_rank_times_in_plus_out(bench: Bench):
    planned = workflow.plan(bench.load("adapter.targets=[q,v,up,down]", "adapter.rank=5"))
    assert [(site.layer, site.role) for site in planned.sites] == [(n, role) for n in range(LAYERS) for role in SHAPES]
    for site in planned.sites:
        rows, columns = SHAPES[site.role]
        assert (site.shape, site.rank, site.parameters) == (f"{rows}x{columns}", 5, 5 * (rows + columns))
        assert site.label
    assert planned.adapter_parameters == LAYERS * 5 * sum(map(sum, SHAPES.values()))
    assert planned.head_parameters == HEAD
    assert planned.budget == planned.adapter_parameters


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        ("lora", lambda rank, rows, columns: rank * (rows + columns)),
        ("dora", lambda rank, rows, columns: rank * (rows + columns) + rows),
        ("lora_fa", lambda rank, rows, columns: rank * rows),
    ],
)
def test_each_method_has_its_own_count(bench: Bench, method: str, cost):
    planned = workflow.plan(bench.load(f"adapter.method={method}", "adapter.targets=[up]"))
    assert [site.parameters for site in planned.sites] == [cost(4, WIDE, WIDTH)] * LAYERS


def test_a_shortcut_is_square(bench: Bench):
    settings = ("adapter.targets=[q]", "adapter.shortcuts=[res1,mid,cut]", "adapter.shortcut_rank=3")
    shortcuts = [site for site in workflow.plan(bench.load(*settings)).sites if site.role != "q"]
    assert sorted((site.role, site.layer) for site in shortcuts) == [("cut", 0), ("mid", 1), ("res1", 0), ("res1", 1)]
    assert {site.parameters for site in shortcuts} == {3 * 2 * WIDTH}


@pytest.mark.parametrize("settings", [(), ("adapter.method=dora", "training.accumulate=2"), SEARCH])
def test_the_plan_is_what_training_does(bench: Bench, settings: tuple[str, ...]):
    planned = workflow.plan(bench.load(*settings))
    result = bench.train(*settings)
    assert result.head_parameters == planned.head_parameters
    assert result.budget == planned.budget
    assert result.sites_total == len(planned.sites)
    assert result.steps == planned.total_steps
    assert planned.rows == TRAIN_ROWS
    metrics, timeline = (read_jsonl(result.run_dir / f"{name}.jsonl") for name in ("metrics", "timeline"))
    assert [record["step"] for record in metrics if "scores" in record] == planned.evaluations
    assert [tick["step"] for tick in timeline] == planned.ticks
    told = json.loads((result.run_dir / "adapter" / "lorakit.json").read_text())["sites"]
    costs = {site["name"]: site["parameters"] for site in told}
    assert costs == {site.name: site.parameters for site in planned.sites}
    assert result.adapter_parameters == sum(costs[site["name"]] for site in told if site["state"] == "on")
    if settings == SEARCH:
        assert 0 < result.adapter_parameters <= planned.budget < planned.adapter_parameters
    else:
        assert result.adapter_parameters == planned.adapter_parameters


def test_the_model_is_counted_without_adapters(bench: Bench):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    assert workflow.plan(bench.load("adapter.targets=[all]")).model_parameters == model.num_parameters()


def test_the_budget_as_a_share(bench: Bench):
    planned = workflow.plan(bench.load(*SEARCH, "search.enable=0.3"))
    assert planned.budget == int(0.3 * planned.adapter_parameters)
    assert "30%" in planned.budget_source
    exact = workflow.plan(bench.load(*SEARCH, "search.parameters=1000"))
    assert exact.budget == 1000


def test_the_overhead_is_passes_over_passes(bench: Bench):
    """12 steps in 2 epochs of 6; a tick every 2 steps; gradnorm makes a pass a batch."""
    planned = workflow.plan(bench.load(*SEARCH, "search.every=0.3", "search.batches=3"))
    assert len(planned.ticks) == 6
    assert planned.search_overhead == pytest.approx(100 * 6 * 3 / 12)
    accumulated = workflow.plan(bench.load(*SEARCH, "search.every=0.5", "search.batches=3", "training.accumulate=2"))
    assert accumulated.search_overhead == pytest.approx(100 * len(accumulated.ticks) * 3 / (6 * 2))
    most = workflow.plan(bench.load(*SEARCH, "search.every=1", "search.batches=99"))
    assert most.search_overhead == pytest.approx(100 * 2 * 6 / 12)  # there are only 6 batches
    assert workflow.plan(bench.load()).search_overhead == 0


def test_memory_is_more_than_weights_and_grows_with_the_batch(bench: Bench):
    """What it is made of: test_footprint."""
    planned = workflow.plan(bench.load())
    weights = 4 * (planned.model_parameters + planned.adapter_parameters)
    assert planned.memory_bytes > weights + 12 * (planned.adapter_parameters + HEAD)
    larger, largest = (workflow.plan(bench.load(f"training.batch_size={rows}")).memory_bytes for rows in (16, 32))
    assert largest - larger == 2 * (larger - planned.memory_bytes) > 0


def test_a_plan_writes_nothing(bench: Bench, tmp_path):
    workflow.plan(bench.load(f"run.folder={tmp_path}/runs"))
    assert not list(tmp_path.iterdir())


def test_a_start_is_looked_at(bench: Bench):
    run = bench.train("training.max_steps=1").run_dir
    assert any(f"starting from {run}" in note for note in workflow.plan(bench.load(f"adapter.start={run}")).notes)
    with pytest.raises(RecipeError, match=r"rank of .* is 4 there and 2 here"):
        workflow.plan(bench.load(f"adapter.start={run}", "adapter.rank=2"))


def test_notes_tell_what_to_know(bench: Bench):
    notes = " | ".join(workflow.plan(bench.load("task.max_length=500", *SEARCH, "search.off=freeze")).notes)
    assert "64 tokens at most" in notes
    assert "gradnorm where B = 0" in notes
    assert "off: freeze" in notes
    assert "train.csv" in notes
    assert "one matrix" in " ".join(workflow.plan(bench.load("adapter.targets=[all]", family="gpt2")).notes)
    paper = workflow.plan(bench.load(*SEARCH, "adapter.shortcut_norm=paper"))
    assert any("norms twice" in note for note in paper.notes)
    assert not any("B = 0" in note for note in workflow.plan(bench.load()).notes)


def test_an_impossible_schedule_is_refused_where_it_stands(bench: Bench):
    loaded = bench.load("search.method=heterolora", "training.batch_size=45")
    with pytest.raises(RecipeError, match="more than one a step") as caught:
        workflow.plan(loaded)
    assert caught.value.problems[0].where == loaded.where("search.every") != ""


def test_a_plan_is_json(bench: Bench):
    told = json.loads(json.dumps(workflow.plan(bench.load(*SEARCH)).to_dict()))
    assert told["sites"][0]["shape"] == "32x32"
    assert told["total_steps"] == 12


def test_planning_draws_no_random_number(bench: Bench):
    before = torch.get_rng_state()
    workflow.plan(bench.load())
    assert torch.equal(torch.get_rng_state(), before)
