"""A training whose learning rate is found: the same as one that is given that rate; remembered, told, and never found twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from support.runs import SEARCH, Bench, StopAt, edited_json, records
from support.thinned import thinned

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, RecipeError, RunError
from lorakit.reporting.summary import outcome_words
from lorakit.tasks.cache import sha256_of
from lorakit.training import loop
from lorakit.training.rate import find_rate, steps_worth, told
from lorakit.workflow.records import read_run
from lorakit.workflow.train import TrainResult

FOUND = ("training.lr=auto", "adapter.dropout=0.2", "run.checkpoint_every=0.5")
WAYS = {
    "lora": (),
    "searched": (*SEARCH, "search.enable=0.5", "search.scoring=streaming", "search.every=0.5"),
    "adalora": (
        "adapter.method=adalora",
        "search.method=adalora",
        "search.enable=0.5",
        "search.every=0.5",
        "training.accumulate=2",
    ),
}


@pytest.fixture(scope="module")
def found(bench: Bench) -> dict[str, TrainResult]:
    """Way -> a run that found its rate, trained when it is first asked for."""

    class Runs(dict[str, TrainResult]):
        def __missing__(self, way: str) -> TrainResult:
            self[way] = bench.train(*FOUND, *WAYS[way])
            return self[way]

    return Runs()


@pytest.mark.parametrize("way", thinned(WAYS, 2))
def test_a_found_rate_trains_as_the_same_rate_given(bench: Bench, found: dict[str, TrainResult], way: str):
    """To the bit, with dropout: nothing is left of the trials."""
    rate = found[way].rate
    assert rate is not None
    given = bench.train(*FOUND, *WAYS[way], f"training.lr={rate.lr!r}")
    ours, theirs = records(found[way].run_dir), records(given.run_dir)
    assert ours["summary"].pop("rate") == rate.to_dict()
    assert theirs["summary"].pop("rate") is None
    assert ours == theirs
    assert max(record.get("lr", 0) for record in ours["metrics"]) <= rate.lr


def test_what_was_found_is_written_and_told(found: dict[str, TrainResult]):
    result = found["lora"]
    assert result.rate is not None
    assert read_json(result.run_dir / "rate.json") == result.rate.to_dict() | {"seconds": result.rate_seconds}
    assert 0 < result.rate_seconds < result.seconds
    words = read_run(Run(result.run_dir)).outcome.rate
    assert words.startswith(f"Its learning rate, {result.rate.lr:.3g}, was found in ")
    assert told(result.rate) in words
    assert words in " ".join(outcome_words(read_run(Run(result.run_dir)).outcome))


@pytest.mark.parametrize("way", thinned(["lora", "searched"], 2))
def test_a_resumed_run_keeps_the_rate_it_found(bench: Bench, found: dict[str, TrainResult], tmp_path: Path, way: str):
    with pytest.raises(Interrupted):
        bench.train(*FOUND, *WAYS[way], hooks=[StopAt(5)], run_dir=tmp_path / "run")
    with mock.patch.object(loop, "find_rate", side_effect=AssertionError("found twice")):
        result = bench.train(*FOUND, *WAYS[way], run_dir=tmp_path / "run", resume=True)
    assert result.rate == found[way].rate
    assert records(tmp_path / "run") == records(found[way].run_dir)


def test_a_run_of_before_has_no_rate_and_goes_on(bench: Bench, tmp_path: Path):
    """Checkpoints of older versions say nothing of a rate."""
    with pytest.raises(Interrupted):
        bench.train(hooks=[StopAt(3)], run_dir=tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    with edited_json(checkpoint / "state.json") as state:
        del state["train"]["rate"], state["train"]["rate_seconds"]
    with edited_json(checkpoint / "sums.json") as sums:
        sums["state.json"] = sha256_of(checkpoint / "state.json")
    assert bench.train(run_dir=tmp_path / "run", resume=True).rate is None


OTHERS = {
    "number": ({"kind": "number"}, ()),
    "several": ({"kind": "several"}, ("training.precision=bf16",)),
    "decoder": ({"family": "llama"}, ("adapter.rank=16", "adapter.method=rslora")),
    "houlsby": ({}, ("adapter.method=houlsby", "adapter.dropout=0")),
    "prefix": ({}, ("adapter.method=prefix_tuning", "adapter.dropout=0")),
    "prompt": ({}, ("adapter.method=prompt_tuning", "adapter.dropout=0")),
    "bitfit": ({}, ("adapter.method=bitfit", "adapter.dropout=0")),
    "vera": ({}, ("adapter.method=vera",)),
    "pissa": ({}, ("adapter.method=pissa",)),
    "dora": ({}, ("adapter.method=dora",)),
    "full": ({}, ("adapter.method=full", "adapter.dropout=0")),
}


@pytest.mark.parametrize("way", thinned(OTHERS, 4))
def test_every_kind_of_training_finds_a_rate_and_leaves_no_trace(bench: Bench, tmp_path: Path, way: str):
    options, settings = OTHERS[way]
    training = bench.prepare(tmp_path, "training.lr=auto", *settings, **options)
    training.model.train()
    before = {name: tensor.clone() for name, tensor in training.adapted.model.state_dict().items()}
    stream = torch.get_rng_state()
    find_rate(training)
    rate = training.state.rate
    assert rate is not None
    assert any(rate["falls"])
    assert not training.rate_is_open
    assert rate["lr"] in [group["initial_lr"] for group in training.optimizer.param_groups]
    for name, tensor in training.adapted.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(torch.get_rng_state(), stream)
    assert not training.optimizer.state


def test_a_plan_says_what_finding_costs(bench: Bench):
    """12 steps of 8 rows: two trials of 8 steps, and three looks at the probe, are more than that."""
    planned = lorakit.plan(bench.load("training.lr=auto"))
    assert planned.rate_overhead == pytest.approx(100 * steps_worth(8) / planned.total_steps)
    assert lorakit.plan(bench.load()).rate_overhead == 0


def test_a_trial_takes_less_than_a_step_that_passes_a_second_batch(bench: Bench):
    """BiLoRA's: the trials' steps are of the loss alone."""
    planned = lorakit.plan(bench.load("training.lr=auto", "adapter.method=bilora"))
    assert planned.rate_overhead == pytest.approx(100 * steps_worth(8) / (2 * planned.total_steps))


@pytest.mark.parametrize(("warmup", "told"), [(0.3, True), (0.0, False)])
def test_a_rate_of_more_sites_than_will_stay_is_told(bench: Bench, tmp_path: Path, caplog, warmup: float, told: bool):
    """Before the first choice all sites are on."""
    settings = (
        *SEARCH,
        "adapter.targets=[q,k,v,o]",
        "search.enable=0.25",
        f"search.warmup={warmup}",
        "training.lr=auto",
    )
    training = bench.prepare(tmp_path, *settings)
    training.model.train()
    if not warmup:
        training.call("on_tick")
    find_rate(training)
    assert ("as the search has closed none yet" in caplog.text) == told


def test_float16_is_refused(bench: Bench):
    with pytest.raises(RecipeError, match="no rate can be found in float16") as caught:
        bench.train("training.lr=auto", "training.precision=fp16")
    assert caught.value.problems[0].key == "training.lr"


def test_a_broken_record_is_named(found: dict[str, TrainResult], tmp_path: Path):
    folder = Path(shutil.copytree(found["lora"].run_dir, tmp_path / "run"))
    for text in ("[]", "{", '{"lr": "x"}', '{"lr": 1e-3, "rates": 3}'):
        (folder / "rate.json").write_text(text)
        with pytest.raises(RunError, match=r"rate\.json"):
            read_run(Run(folder))
