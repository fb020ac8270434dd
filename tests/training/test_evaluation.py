"""Predictions in row order, and the scores of every validation split."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from support.runs import Bench

from lorakit.tasks.task import Task
from lorakit.training.evaluation import decide, predict_logits, score_logits, score_splits, shared_out

TWO_SPLITS = Task("two", "two", ("text",), "label", ("a", "b"), ("accuracy", "f1"), validation=("near", "far"))


def test_logits_are_those_of_each_row_alone(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path)
    encoded = training.loader.encoded
    logits = predict_logits(training.model, encoded, training.objective, 7)
    with torch.no_grad():
        alone = [training.objective.logits(training.model, encoded.collate([row])) for row in range(len(encoded))]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, torch.cat(alone).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_is_without_dropout_and_puts_the_mode_back(bench: Bench, tmp_path: Path, mode: bool):
    training = bench.prepare(tmp_path)
    training.model.train(mode)
    before = torch.get_rng_state()
    first, again = (predict_logits(training.model, training.loader.encoded, training.objective, 16) for _ in range(2))
    assert np.array_equal(first, again)
    assert training.model.training is mode
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("number", "processes"), [(1, 3), (5, 2), (6, 2), (7, 1)])
def test_processes_share_batches_out_and_pass_equally_many(number: int, processes: int):
    batches = [[row] for row in range(number)]
    shares = [
        shared_out(batches, SimpleNamespace(process_index=p, num_processes=processes))  # type: ignore[arg-type]
        for p in range(processes)
    ]
    assert {len(share) for share in shares} == {math.ceil(number / processes)}
    in_turn = [share[turn] for turn in range(len(shares[0])) for share in shares]
    assert in_turn == batches + [[0]] * (len(in_turn) - number)


def test_decisions():
    assert decide(TWO_SPLITS, np.array([[0.1, 0.2], [3.0, -1.0]])).tolist() == [1, 0]
    number = Task("number", "number", ("text",), "label", (), ("pearson",))
    assert decide(number, np.array([[0.5], [-2.0]])).tolist() == [0.5, -2.0]


def test_the_first_split_has_the_plain_names(bench: Bench, tmp_path: Path):
    training = bench.prepare(tmp_path)
    splits = {"near": training.loader.encoded, "far": training.loader.encoded}
    scores = score_splits(training.model, TWO_SPLITS, splits, training.objective, 16, {})
    labels = training.loader.encoded.labels
    assert labels is not None
    guesses = predict_logits(training.model, training.loader.encoded, training.objective, 16).argmax(axis=1)
    expected = {"accuracy": accuracy_score(labels, guesses), "f1": f1_score(labels, guesses)}
    assert scores == pytest.approx(expected | {f"{name}/far": value for name, value in expected.items()})


def test_scores_need_labels(bench: Bench, tmp_path: Path):
    encoded = bench.prepare(tmp_path).loader.encoded
    encoded.labels = None
    with pytest.raises(ValueError, match="labels"):
        score_logits(TWO_SPLITS, np.zeros((len(encoded), 2)), encoded)
