"""Runs whose adapter is no weight: trained, stored, read and used as any other, but never merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.runs import TRAIN_ROWS, Bench
from support.thinned import crossed
from torch.testing import assert_close

import lorakit
from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.adapter_file import load_adapter, save_adapter, site_states
from lorakit.errors import RunError
from lorakit.workflow.setup import adapt, assemble
from lorakit.workflow.train import TrainResult

TEXTS = ["a good film", "the dull cast sleeps and never runs", "sun"]
METHODS = {"prefix_tuning": 2 * 2 * 4 * 32, "prompt_tuning": 4 * 32, "p_tuning": 4 * 32 + 3 * (32 * 32 + 32)}
"""Method -> its parameters at rank 4 in two layers of width 32."""


def settings(method: str) -> tuple[str, ...]:
    return (f"adapter.method={method}", "adapter.dropout=0")


@pytest.fixture(scope="module", params=METHODS)
def run(bench: Bench, request: pytest.FixtureRequest) -> tuple[str, TrainResult]:
    return request.param, bench.train(*settings(request.param), "training.lr=0.02", name=request.param)


def logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return result


def test_a_run_is_trained_loaded_and_predicts(run: tuple[str, TrainResult]) -> None:
    method, trained = run
    assert trained.adapter_parameters == METHODS[method]
    classifier = lorakit.load(trained.run_dir)
    inputs = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = classifier.model(**inputs).logits
        alone = [classifier.model(**classifier.tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS]
    assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)
    names = list(classifier.model.config.id2label.values())
    predicted = [each.label for each in lorakit.predict(trained.run_dir, TEXTS)]
    assert predicted == [names[int(row.argmax())] for row in together]


def test_training_moves_every_tensor(bench: Bench, run: tuple[str, TrainResult]) -> None:
    method, trained = run
    start = adapt(assemble(bench.load(*settings(method), "training.lr=0.02", name=method)))
    end = adapt(assemble(bench.load(*settings(method), "training.lr=0.02", name=method)))
    load_adapter(end, trained.run_dir / "adapter")
    before, after = start.tensors(), end.tensors()
    assert TRAIN_ROWS > 8
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_merging_is_refused_before_anything_is_written(run: tuple[str, TrainResult], tmp_path: Path) -> None:
    _, trained = run
    with pytest.raises(RunError, match="cannot be merged: virtual tokens are not weights") as caught:
        lorakit.merge(trained.run_dir, out=tmp_path / "merged")
    assert len(caught.value.problems) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "family"), crossed(METHODS, ["bert", "gpt2", "llama"], turn=0))
def test_saved_and_loaded_is_the_same_bit_for_bit(bench: Bench, tmp_path: Path, method: str, family: str) -> None:
    def fresh(seed: int) -> AdaptedModel:
        return adapt(assemble(bench.load(*settings(method), f"run.seed={seed}", family=family)))

    adapted, other = fresh(1), fresh(2)
    adapted.switch(list(adapted.adapters)[:1])  # with a prefix the upper layer stays off
    assert not torch.equal(logits(other.model), logits(adapted.model))
    save_adapter(adapted, tmp_path / "adapter")
    load_adapter(other, tmp_path / "adapter")
    assert other.states() == adapted.states()
    assert torch.equal(logits(other.model), logits(adapted.model))


def test_a_search_chooses_among_prefixes_and_shortcuts(bench: Bench) -> None:
    trained = bench.train(
        *settings("prefix_tuning"),
        *("adapter.shortcuts=[res1]", "search.method=heterolora", "search.batches=2", "search.enable=0.5"),
        name="searched_prefixes",
    )
    classifier = lorakit.load(trained.run_dir)
    assert classifier.model.training is False
    places = {"layer.0.prefix", "layer.1.prefix", "layer.0.res1", "layer.1.res1"}
    states = {name.partition("encoder.")[2]: state for name, state in site_states(trained.run_dir / "adapter").items()}
    assert set(states) == places
    assert 0 < sum(state == "on" for state in states.values()) < len(places)
