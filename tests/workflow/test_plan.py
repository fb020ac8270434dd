"""What a plan says is what a formula gives and what training then does."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import mean

import pytest
import torch
from support.models import SMALL
from support.runs import SEARCH, TRAIN_ROWS, Bench

import lorakit
from lorakit.artifacts.files import read_jsonl
from lorakit.errors import RecipeError
from lorakit.searching.cost_model import BACKWARD, DROPOUT, THIN, longest_rows
from lorakit.workflow.setup import assemble

WIDTH, WIDE, LAYERS = SMALL["hidden_size"], SMALL["intermediate_size"], SMALL["num_hidden_layers"]
SHAPES = {"q": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "up": (WIDE, WIDTH), "down": (WIDTH, WIDE)}
HEAD = 2 * WIDTH + 2


def test_counts_are_rank_times_in_plus_out(bench: Bench):
    planned = lorakit.plan(bench.load("adapter.targets=[q,v,up,down]", "adapter.rank=5"))
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
    planned = lorakit.plan(bench.load(f"adapter.method={method}", "adapter.targets=[up]"))
    assert [site.parameters for site in planned.sites] == [cost(4, WIDE, WIDTH)] * LAYERS


def test_a_shortcut_is_square(bench: Bench):
    settings = ("adapter.targets=[q]", "adapter.shortcuts=[res1,mid,cut]", "adapter.shortcut_rank=3")
    shortcuts = [site for site in lorakit.plan(bench.load(*settings)).sites if site.role != "q"]
    assert sorted((site.role, site.layer) for site in shortcuts) == [("cut", 0), ("mid", 1), ("res1", 0), ("res1", 1)]
    assert {site.parameters for site in shortcuts} == {3 * 2 * WIDTH}


@pytest.mark.parametrize("settings", [(), ("adapter.method=dora", "training.accumulate=2"), SEARCH])
def test_the_plan_is_what_training_does(bench: Bench, settings: tuple[str, ...]):
    planned = lorakit.plan(bench.load(*settings))
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
    assert lorakit.plan(bench.load("adapter.targets=[all]")).model_parameters == model.num_parameters()


def test_the_budget_as_a_share(bench: Bench):
    planned = lorakit.plan(bench.load(*SEARCH, "search.enable=0.3"))
    assert planned.budget == int(0.3 * planned.adapter_parameters)
    assert "30%" in planned.budget_source
    exact = lorakit.plan(bench.load(*SEARCH, "search.parameters=1000"))
    assert exact.budget == 1000


def test_the_overhead_of_passes(bench: Bench):
    """12 steps in 2 epochs of 6; gradnorm makes a pass a batch with every site on, a step has a quarter of them, half as deep."""
    settings = [*SEARCH, "search.every=0.3", "search.batches=3"]
    planned = lorakit.plan(bench.load(*settings))
    assert len(planned.ticks) == 6
    parts = assemble(bench.load(*settings))
    lengths = parts.encode("train")["train"].lengths
    frozen = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * WIDE)
    paths = 3 * THIN * sum(site.rank * sum(map(int, site.shape.split("x"))) for site in planned.sites)
    share = planned.budget / planned.adapter_parameters
    scored = sum(8 * length for length in longest_rows(lengths, 8, 3))
    trained = 8 * mean(longest_rows(lengths, 8, 1))
    a_tick = scored * (frozen * (1 + BACKWARD) + paths)
    a_step = trained * (frozen * (DROPOUT + BACKWARD * 2 * share) + paths * share)
    assert planned.search_overhead == pytest.approx(100 * 6 * a_tick / (12 * a_step))


def test_the_overhead_grows_with_what_is_done(bench: Bench):
    def overhead(*settings: str) -> float:
        return lorakit.plan(bench.load(*SEARCH, "search.every=0.5", *settings)).search_overhead

    once = overhead("search.every=2")
    assert overhead() == pytest.approx(4 * once)  # ticks at steps 0, 3, 6 and 9
    assert overhead("training.accumulate=2", "search.every=1") == pytest.approx(2 * once)  # two ticks, as many passes
    assert overhead("search.batches=99") == pytest.approx(overhead("search.batches=6"))  # there are only 6 batches
    assert overhead("search.proxy=constant") == 0
    assert overhead() < overhead("search.proxy=alpha")
    assert lorakit.plan(bench.load()).search_overhead == 0


def test_watching_counts_the_batches_of_every_watched_step(bench: Bench):
    settings = [*SEARCH, "search.scoring=streaming", "search.warmup=0.3"]  # no tick at step 0: no passes of its own
    one, two = (
        lorakit.plan(bench.load(*settings, f"search.batches={number}", "search.every=0.5")) for number in (1, 2)
    )
    assert one.ticks == [6, 9]
    assert two.search_overhead == pytest.approx(2 * one.search_overhead)
    assert one.search_overhead > 0


def test_unit_searches_cost_something_too(bench: Bench):
    settings = ["adapter.method=adalora", "search.method=adalora", "search.enable=0.5"]
    plain = lorakit.plan(bench.load(*settings, "search.options={orthogonality: 0}")).search_overhead
    assert 0 < plain < lorakit.plan(bench.load(*settings)).search_overhead


def test_memory_is_more_than_weights_and_grows_with_the_batch(bench: Bench):
    """What it is made of: test_footprint."""
    planned = lorakit.plan(bench.load())
    weights = 4 * (planned.model_parameters + planned.adapter_parameters)
    assert planned.memory_bytes > weights + 12 * (planned.adapter_parameters + HEAD)
    larger, largest = (lorakit.plan(bench.load(f"training.batch_size={rows}")).memory_bytes for rows in (16, 32))
    assert largest - larger == 2 * (larger - planned.memory_bytes) > 0


def test_a_plan_writes_nothing(bench: Bench, tmp_path):
    lorakit.plan(bench.load(f"run.folder={tmp_path}/runs"))
    assert not list(tmp_path.iterdir())


def test_a_start_is_looked_at(bench: Bench):
    run = bench.train("training.max_steps=1").run_dir
    assert any(f"starting from {run}" in note for note in lorakit.plan(bench.load(f"adapter.start={run}")).notes)
    with pytest.raises(RecipeError, match=r"rank of .* is 4 there and 2 here"):
        lorakit.plan(bench.load(f"adapter.start={run}", "adapter.rank=2"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("search.method=sora",), "search 'sora': 12 steps pull a gate by 0.0036 in all"),
        (("search.method=adalora",), "as search.warmup=0.15 and search.tail=0.5 do"),
        (("search.method=dynamic_dora",), "as search.warmup=0.15 and search.tail=0.5 do"),
        (
            ("adapter.method=aflora", "adapter.targets=[q,up]"),
            f"{LAYERS * 2 * 4 * WIDTH:,} of the adapters' parameters, on {LAYERS} sites, never train",
        ),
    ],
)
def test_what_a_search_or_an_update_does_unexpectedly_is_told_beforehand(
    bench: Bench, settings: tuple[str, ...], words: str
):
    """12 steps of 3e-4; rank 4 times (in + out) of the square q."""
    assert any(words in note for note in lorakit.plan(bench.load(*settings)).notes)


def test_notes_tell_what_to_know(bench: Bench):
    notes = " | ".join(lorakit.plan(bench.load("task.max_length=500", *SEARCH, "search.off=freeze")).notes)
    assert "64 tokens at most" in notes
    assert "gradnorm where B = 0" in notes
    assert "off: freeze" in notes
    assert "train.csv" in notes
    loaded = replace(bench.load(), told=["films.csv: texts: 'text'"])
    assert "films.csv: texts: 'text'" in lorakit.plan(loaded).notes
    assert "one matrix" in " ".join(lorakit.plan(bench.load("adapter.targets=[all]", family="gpt2")).notes)
    paper = lorakit.plan(bench.load(*SEARCH, "adapter.shortcut_norm=paper"))
    assert any("norms twice" in note for note in paper.notes)
    assert not any("B = 0" in note for note in lorakit.plan(bench.load()).notes)


def test_an_impossible_schedule_is_refused_where_it_stands(bench: Bench):
    loaded = bench.load("search.method=heterolora", "training.batch_size=45")
    with pytest.raises(RecipeError, match="more than one a step") as caught:
        lorakit.plan(loaded)
    assert caught.value.problems[0].where == loaded.where("search.every") != ""


def test_a_plan_is_json(bench: Bench):
    told = json.loads(json.dumps(lorakit.plan(bench.load(*SEARCH)).to_dict()))
    assert told["sites"][0]["shape"] == "32x32"
    assert told["total_steps"] == 12


def test_planning_draws_no_random_number(bench: Bench):
    before = torch.get_rng_state()
    lorakit.plan(bench.load())
    assert torch.equal(torch.get_rng_state(), before)


def test_remarks_on_own_data_are_those_of_the_survey(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """The validation rows are the training rows: each of them is remarked on; and too many rows are not looked at."""
    same = f"task.validation={bench.data()}/train.csv"
    expected = lorakit.inspect_data(bench.load(same, "evaluation.baselines=[]")).remarks
    assert any(f"{TRAIN_ROWS} of {TRAIN_ROWS} texts are training texts too" in remark for remark in expected)
    assert lorakit.plan(bench.load(same)).remarks == expected
    monkeypatch.setattr("lorakit.workflow.plan.SURVEYED", TRAIN_ROWS)
    assert lorakit.plan(bench.load(same)).remarks == []
    assert lorakit.plan(bench.load(kind="sst2")).remarks == []
