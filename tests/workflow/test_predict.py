"""Labels for new text: in order, one for each, from a run or what was merged from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import Bench, make_rows

import lorakit
from lorakit.errors import DataError, LorakitError, UsageError
from lorakit.workflow.predict import AHEAD
from lorakit.workflow.train import TrainResult

TEXTS = [row["sentence"] for row in make_rows(50, seed=9)]


def test_every_text_gets_its_own_label_in_order(finished: TrainResult):
    """Against the model by hand, one text at a time."""
    classifier = lorakit.load(finished.run_dir)
    predictions = classifier.predict(TEXTS, batch_size=7)
    assert [each.text for each in predictions] == TEXTS
    for text, each in zip(TEXTS, predictions, strict=True):
        inputs = classifier.tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            chances = classifier.model(**inputs).logits.softmax(-1)[0]
        assert each.label == ("happy", "plain")[int(chances.argmax())]
        assert each.probability == pytest.approx(float(chances.max()), rel=1e-4)
    assert {each.label for each in predictions} <= {"happy", "plain"}


def test_any_iterable_will_do(finished: TrainResult):
    expected = lorakit.predict(finished.run_dir, TEXTS[:5])
    assert lorakit.predict(finished.run_dir, iter(TEXTS[:5])) == expected
    assert lorakit.predict(finished.run_dir, []) == []
    assert expected[0].to_dict() == {
        "text": TEXTS[0],
        "label": expected[0].label,
        "probability": expected[0].probability,
        "probabilities": expected[0].probabilities,
        "labels": (expected[0].label,),
    }


def test_one_string_is_one_text(bench: Bench, finished: TrainResult):
    classifier = lorakit.load(finished.run_dir)
    (alone,) = classifier.predict("good")
    assert alone == classifier.predict(["good"])[0]
    assert [each.text for each in classifier.predict(("good", "bad"))] == ["good", "bad"]
    pairs = lorakit.load(bench.train("training.max_steps=1", kind="pair").run_dir)
    (pair,) = pairs.predict(("good", "film"))
    assert pair == pairs.predict([("good", "film")])[0]
    with pytest.raises(DataError, match="text 2 is none: None"):
        classifier.predict(["good", None])  # type: ignore[list-item]


def test_a_special_token_in_a_text_is_plain_text(finished: TrainResult):
    classifier = lorakit.load(finished.run_dir)
    roles = [token for token in classifier.tokenizer.all_special_tokens if token != classifier.tokenizer.unk_token]
    written = [f"good {token} film" for token in roles]
    plain = [f"good {token[0]} {token[1:]} film" for token in roles]
    assert len(roles) > 1
    assert np.array_equal(classifier.predict_proba(written), classifier.predict_proba(plain))


def test_all_probabilities(finished: TrainResult):
    """Against transformers, one text at a time."""
    classifier = lorakit.load(finished.run_dir)
    chances = classifier.predict_proba(TEXTS, batch_size=4)
    assert chances.shape == (len(TEXTS), 2)
    for text, row, each in zip(TEXTS, chances, classifier.predict(TEXTS, batch_size=7), strict=True):
        with torch.no_grad():
            logits = classifier.model(**classifier.tokenizer(text, return_tensors="pt")).logits[0]
        expected = logits.softmax(-1).tolist()
        assert row.tolist() == pytest.approx(expected, rel=1e-4)
        assert each.probabilities == pytest.approx(dict(zip(("happy", "plain"), expected, strict=True)), rel=1e-4)
    assert classifier.predict_proba([]).shape == (0, 2)


def test_a_stream_is_not_drawn_whole(finished: TrainResult):
    drawn = []

    def endless() -> Iterator[str]:
        for text in cycle(TEXTS):
            drawn.append(text)
            yield text

    classifier = lorakit.load(finished.run_dir)
    answers = classifier.stream(endless(), batch_size=4)
    assert next(answers).text == TEXTS[0]
    assert len(drawn) == 4
    for number in range(1, 400):
        assert next(answers).text == TEXTS[number % len(TEXTS)]
        assert len(drawn) <= number + 4 * AHEAD
    one = classifier.stream(endless(), batch_size=1)
    drawn.clear()
    for number in range(3):
        next(one)
        assert len(drawn) == number + 1


def test_blank_texts_have_no_label(bench: Bench, finished: TrainResult):
    classifier = lorakit.load(finished.run_dir)
    texts = [TEXTS[0], "", " \t ", TEXTS[1]]
    first, *blank, last = classifier.predict(texts, batch_size=1)
    assert [(each.label, each.probability, each.probabilities) for each in blank] == [("", None, None)] * 2
    assert (first.text, last.text) == (TEXTS[0], TEXTS[1])
    assert np.isnan(classifier.predict_proba(texts)).tolist() == [[False] * 2, [True] * 2, [True] * 2, [False] * 2]


def test_a_number_has_no_probabilities(bench: Bench):
    with pytest.raises(UsageError, match="predicts a number"):
        lorakit.load(bench.train(kind="number").run_dir).predict_proba(TEXTS)


def test_long_texts_are_cut_as_in_training(bench: Bench):
    run = bench.train("task.max_length=8", "training.max_steps=1").run_dir
    text = " ".join(["good"] * 6)  # with <s> and </s>, eight tokens
    short, long = lorakit.predict(run, [text, text + " dull" * 300])
    assert short.probability == pytest.approx(long.probability, rel=1e-5)


def test_pairs_and_singles_are_told_apart(bench: Bench, finished: TrainResult, tmp_path: Path):
    pairs = bench.train("training.max_steps=1", kind="pair").run_dir
    lorakit.merge(pairs, out=tmp_path / "pairs")
    lorakit.merge(finished.run_dir, out=tmp_path / "singles")
    for place in (pairs, tmp_path / "pairs"):
        assert len(lorakit.predict(place, [("good", "film"), ("a", "b")])) == 2
        with pytest.raises(DataError, match="line 2 does not fit the task") as caught:
            lorakit.predict(place, [("good", "film"), "a"])
        assert caught.value.exit_code == 2
        assert "two texts" in caught.value.problems[0].valid
    for place in (finished.run_dir, tmp_path / "singles"):
        with pytest.raises(DataError, match="line 1 does not fit the task"):
            lorakit.predict(place, [("good", "film"), "a"])


def test_a_line_far_down_is_named_by_its_number(finished: TrainResult):
    with pytest.raises(DataError, match="line 41 does not"):
        lorakit.predict(finished.run_dir, [*TEXTS[:40], ("a", "b")])


def test_numbers(bench: Bench, tmp_path: Path):
    run = bench.train(kind="number").run_dir
    lorakit.merge(run, out=tmp_path / "merged")
    classifier = lorakit.load(run)
    inputs = classifier.tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = classifier.model(**inputs).logits[:, 0].tolist()
    for place in (run, tmp_path / "merged"):
        predictions = lorakit.predict(place, TEXTS[:3])
        assert [float(each.label) for each in predictions] == pytest.approx(expected, abs=1e-4)
        assert {each.probability for each in predictions} == {None}


def test_run_and_merged_folder_agree(searched: TrainResult, tmp_path: Path):
    lorakit.merge(searched.run_dir, out=tmp_path / "merged")
    ours, theirs = (lorakit.predict(place, TEXTS) for place in (searched.run_dir, tmp_path / "merged"))
    assert [each.label for each in ours] == [each.label for each in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.probability == pytest.approx(other.probability, rel=1e-4)


def test_best_weights(bench: Bench):
    run = bench.train("training.lr=0.05", "training.epochs=3", "evaluation.every_steps=2")
    last, best = (lorakit.predict(run.run_dir, TEXTS, weights=weights) for weights in ("last", "best"))
    assert [each.probability for each in last] != [each.probability for each in best]


def test_a_folder_that_is_neither(tmp_path: Path, bench: Bench):
    for place in (tmp_path, tmp_path / "nowhere", bench.backbone()):
        with pytest.raises(LorakitError, match="is not a run folder") as caught:
            lorakit.load(place)
        assert caught.value.exit_code == 2


def test_the_training_files_are_not_needed_any_more(bench: Bench, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(bench.data(), data)
    run = bench.train(
        f"task.train={data}/train.csv", f"task.validation={data}/validation.csv", run_dir=tmp_path / "run"
    )
    before = lorakit.predict(run.run_dir, TEXTS[:5])
    shutil.rmtree(data)
    assert lorakit.predict(run.run_dir, TEXTS[:5]) == before
