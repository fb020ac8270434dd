"""Baselines and the signs of a collapse, by hand and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score

from lorakit.tasks.baselines import (
    Baseline,
    below_words,
    collapse_warnings,
    frozen,
    majority,
    one_class,
    some_rows,
    tfidf,
)
from lorakit.tasks.task import MULTI_LABEL_METRICS, Task

TASK = Task("three", "", ("text",), "label", ("a", "b", "c"), ("accuracy", "macro_f1"))


def test_the_majority_is_that_of_the_training_rows():
    train, validation = np.array([2, 2, 1]), np.array([1, 1, 2, 0])
    expected = DummyClassifier().fit(np.zeros((3, 1)), train).predict(np.zeros((4, 1)))
    found = majority(TASK, train, validation)
    assert found.title == "always c"
    assert found.scores == {
        "accuracy": pytest.approx(1 / 4),
        "macro_f1": pytest.approx(f1_score(validation, expected, average="macro", zero_division=0)),
    }


def split_of(texts: list[str], labels: list[int], **columns: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels, **columns})


def test_words_that_tell_the_class_are_learnt():
    train = split_of(["good x", "good y", "bad x", "bad y"] * 3, [0, 0, 1, 1] * 3)
    assert tfidf(TASK, train, split_of(["z good", "bad z"], [0, 1])).scores["accuracy"] == 1
    pairs = split_of(["x"] * 4, [0, 1, 0, 1], text_pair=["good", "bad"] * 2)
    assert tfidf(TASK, pairs, split_of(["x", "x"], [1, 0], text_pair=["bad", "good"])).scores["accuracy"] == 1


@pytest.mark.parametrize(
    ("texts", "labels", "note"),
    [(["x", "y"], [1, 1], "the training rows have one class alone"), (["!", "?"], [0, 1], "the texts hold no words")],
)
def test_what_cannot_be_made_says_why(texts: list[str], labels: list[int], note: str):
    found = tfidf(TASK, split_of(texts, labels), split_of(["x"], [0]))
    assert (found.scores, found.note) == ({}, note)
    assert below_words("accuracy", {"accuracy": 0.0}, [found]) == []


def test_frozen_features_that_tell_the_class():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (np.eye(3)[labels] * 10 + rng.normal(size=(60, 3))).astype(np.float32)
    assert frozen(TASK, features[:30], labels[:30], features[30:], labels[30:], "").scores["accuracy"] == 1


def test_many_rows_are_thinned_alike_every_time():
    rows, note = some_rows(1000, 10)
    assert len(set(rows.tolist())) == 10
    assert rows.tolist() == sorted(rows.tolist()) == some_rows(1000, 10)[0].tolist()
    assert note == "trained on 10 of 1,000 rows"
    assert some_rows(10, 10)[1] == ""


def test_one_class_for_all_rows():
    assert one_class(np.array([1, 1]))
    assert not one_class(np.array([1, 0]))
    assert not one_class(np.array([1]))  # of one row that says nothing


def test_a_collapse_is_told():
    told = collapse_warnings(TASK, np.array([1, 1, 1, 1]), np.array([0, 0, 0, 1]), [0.7, 0.9, 0.7])
    assert told == [
        "it answers 'b' for all 4 validation rows",
        "0.2500 of the validation rows are right, and always answering 'a' gets 0.7500",
        "the loss never fell: 0.7000 in the first line of metrics.jsonl, 0.7000 in the last",
    ]


def test_what_learns_is_not_warned_about():
    assert collapse_warnings(TASK, np.array([0, 1, 2]), np.array([0, 1, 1]), [0.7, 0.6]) != []  # no more than b's share
    assert collapse_warnings(TASK, np.array([0, 1, 1]), np.array([0, 1, 1]), [0.7, 0.6]) == []
    assert collapse_warnings(TASK, np.array([0, 1, 1]), np.array([0, 1, 1]), [0.7]) == []  # one line tells no course


def test_numbers_to_predict_have_a_loss_alone():
    number = Task("n", "", ("text",), "y", (), ("mse",))
    assert collapse_warnings(number, np.array([1.0, 1.0]), np.array([0.0, 2.0]), [2.0, 1.0]) == []
    assert len(collapse_warnings(number, np.array([1.0, 1.0]), np.array([0.0, 2.0]), [1.0, 1.0])) == 1


def test_a_run_below_a_baseline_says_so():
    baselines = [Baseline("majority", "always a", {"accuracy": 0.5}), Baseline("tfidf", "words", {"accuracy": 0.8})]
    assert below_words("accuracy", {"accuracy": 0.7}, baselines) == ["accuracy 0.7000 is below words: 0.8000"]
    assert below_words("mae", {"mae": 0.7}, [Baseline("majority", "always a", {"mae": 0.6})]) == [
        "mae 0.7000 is above always a: 0.6000"
    ]


SEVERAL = Task("several", "", ("text",), "label", ("a", "b", "c"), MULTI_LABEL_METRICS, multi_label=True)


def test_the_majority_of_several_labels_is_each_labels():
    found = majority(SEVERAL, np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1]]), np.array([[1, 0, 1], [0, 1, 0]]))
    assert found.title == "always a, c"
    assert found.scores["micro_f1"] == pytest.approx(
        2 * 2 / (2 * 2 + 2 + 1)
    )  # right of row 0; two too many, one missed
    assert found.scores["subset_accuracy"] == 0.5


def test_words_that_tell_each_of_several_labels_are_learnt():
    texts = ["good x", "good bad", "bad y", "z"] * 4
    train = split_of(texts, [["good" in text, "bad" in text, False] for text in texts])
    found = tfidf(SEVERAL, train, split_of(["bad good", "z"], [[1, 1, 0], [0, 0, 0]]))
    assert found.scores["micro_f1"] == found.scores["subset_accuracy"] == 1


@pytest.mark.parametrize(
    ("decided", "told"),
    [
        ([[0, 0, 0]] * 3, ["it answers no label for all 3 validation rows"]),
        ([[1, 1, 1]] * 3, ["it answers 'a', 'b', 'c' for all 3 validation rows"]),
        ([[1, 0, 0], [1, 1, 0], [1, 1, 0]], ["it never answers 'c', which 2 of the 3 validation rows have"]),
        ([[1, 0, 0], [1, 1, 1], [0, 0, 0]], []),
    ],
)
def test_a_collapse_of_several_labels_is_told(decided: list[list[int]], told: list[str]):
    references = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 1]])
    assert collapse_warnings(SEVERAL, np.array(decided), references, [0.7, 0.6]) == told
