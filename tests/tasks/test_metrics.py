import evaluate
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from support.thinned import thinned

from lorakit.errors import RunError
from lorakit.tasks.formulas import CLASSIFICATION
from lorakit.tasks.metric_modules import MODULES
from lorakit.tasks.metrics import interval, main_metric, score
from lorakit.tasks.task import MULTI_LABEL_METRICS, ORDERED_METRICS, Task, higher_is_better, tasks

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 2, 200), RNG.integers(0, 2, 200)
THREE = RNG.integers(0, 3, 200), RNG.integers(0, 3, 200)
NUMBERS = RNG.normal(size=200).round(1), RNG.normal(size=200).round(1)  # rounded: ties

PEERS = [
    ("accuracy", CLASSES, lambda p, r: sk.accuracy_score(r, p)),
    ("f1", CLASSES, lambda p, r: sk.f1_score(r, p)),
    ("macro_f1", THREE, lambda p, r: sk.f1_score(r, p, average="macro")),
    ("matthews", THREE, lambda p, r: sk.matthews_corrcoef(r, p)),
    ("pearson", NUMBERS, lambda p, r: stats.pearsonr(p, r).statistic),
    ("spearman", NUMBERS, lambda p, r: stats.spearmanr(p, r).statistic),
    ("mse", NUMBERS, lambda p, r: sk.mean_squared_error(r, p)),
]


@pytest.mark.parametrize(("name", "data", "peer"), PEERS)
def test_each_metric_equals_its_peer(name, data, peer):
    module = MODULES[name]()
    assert isinstance(module, evaluate.Metric)
    assert module.compute(predictions=data[0], references=data[1]) == {name: pytest.approx(peer(*data))}


def test_a_task_is_scored_with_all_its_metrics_the_main_one_first():
    scores = score(tasks.get("mrpc"), *CLASSES)
    assert list(scores) == ["accuracy", "f1"]
    assert list(score(tasks.get("stsb"), *NUMBERS)) == ["pearson", "spearman"]
    assert main_metric(tasks.get("mrpc")) == "accuracy"
    assert main_metric(tasks.get("mrpc").with_metric("f1")) == "f1"


def test_metrics_leave_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    score(tasks.get("mrpc"), *CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_predictions_that_are_not_finite_are_told():
    with pytest.raises(RunError, match="1 of 2 predictions are not numbers"):
        score(tasks.get("stsb"), np.array([np.nan, 1.0]), np.array([1.0, 2.0]))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"must both be \(n,\)"):
        score(tasks.get("sst2"), np.zeros((3, 2)), np.zeros(3))


def test_the_interval_of_an_accuracy_is_near_the_normal_one():
    references = np.zeros(1000, int)
    predictions = (np.arange(1000) < 200).astype(int)  # accuracy 0.8
    low, high = interval(tasks.get("sst2"), "accuracy", predictions, references, samples=1500)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.005)


def test_the_interval_of_a_correlation_is_near_fishers():
    rng = np.random.default_rng(1)
    x = rng.normal(size=800)
    y = 0.6 * x + 0.8 * rng.normal(size=800)
    centre, half = np.arctanh(stats.pearsonr(x, y).statistic), 1.96 / np.sqrt(800 - 3)
    found = interval(tasks.get("stsb"), "pearson", x, y)
    assert found == pytest.approx((np.tanh(centre - half), np.tanh(centre + half)), abs=0.015)


def test_drawing_counts_is_drawing_rows():
    predictions, references = CLASSES
    draws = np.random.default_rng(5).integers(200, size=(500, 200))
    values = [sk.f1_score(references[rows], predictions[rows]) for rows in draws]
    found = interval(tasks.get("mrpc"), "f1", predictions, references)
    assert found == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.02)


def test_an_interval_is_repeatable_ordered_and_wider_at_a_higher_level():
    task = tasks.get("mrpc")
    assert interval(task, "f1", *CLASSES, samples=200) == interval(task, "f1", *CLASSES, samples=200)
    low, high = interval(task, "f1", *CLASSES, samples=200)
    lower, higher = interval(task, "f1", *CLASSES, samples=200, level=0.99)
    assert lower < low < score(task, *CLASSES)["f1"] < high < higher


def test_a_perfect_score_has_no_width():
    assert interval(tasks.get("cola"), "matthews", CLASSES[0], CLASSES[0], samples=50) == (1.0, 1.0)


def test_what_is_drawn_does_not_grow_with_the_rows(monkeypatch):
    """A formula sees no more than the nine pairs of three classes, however many rows there are."""
    seen = []
    monkeypatch.setitem(CLASSIFICATION, "counted", lambda p, r, weights: seen.append((len(p), weights.sum())) or 0.0)
    predictions, references = RNG.integers(0, 3, 40_000), RNG.integers(0, 3, 40_000)
    interval(tasks.get("mnli"), "counted", predictions, references, samples=3)
    assert seen == [(9, 40_000)] * 3


GRADES = RNG.integers(0, 5, 200), RNG.integers(0, 5, 200)
SETS = (RNG.random((200, 4)) < 0.4).astype(int), (RNG.random((200, 4)) < [0.5, 0.3, 0.02, 0.0]).astype(int)
OF_SETS = Task("several", "", ("t",), "l", tuple("abcd"), MULTI_LABEL_METRICS, multi_label=True)
PEERS_OF_SETS = {
    "micro_f1": lambda p, r: sk.f1_score(r, p, average="micro"),
    "macro_f1": lambda p, r: sk.f1_score(r, p, average="macro", zero_division=0),
    "subset_accuracy": lambda p, r: sk.accuracy_score(r, p),
}


def test_metrics_of_several_labels_equal_their_peers():
    assert score(OF_SETS, *SETS) == {name: pytest.approx(peer(*SETS)) for name, peer in PEERS_OF_SETS.items()}


@pytest.mark.parametrize("metric", thinned(PEERS_OF_SETS, 3))
def test_the_interval_of_several_labels_is_that_of_rows_drawn_again(metric):
    """By scikit-learn, of fewer draws; the ends of the interval are random in the second digit."""
    rng, values = np.random.default_rng(1), []
    for _ in range(300):
        rows = rng.integers(200, size=200)
        values.append(PEERS_OF_SETS[metric](SETS[0][rows], SETS[1][rows]))
    assert interval(OF_SETS, metric, *SETS) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.02)


def test_grades_are_scored_by_how_far_they_are_off():
    task = Task("grades", "", ("t",), "l", tuple("12345"), ("accuracy", *ORDERED_METRICS), ordered=True)
    found = score(task, *GRADES)
    kappa = sk.cohen_kappa_score(GRADES[1], GRADES[0], weights="quadratic")
    assert found["quadratic_kappa"] == pytest.approx(kappa)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(GRADES[1], GRADES[0]))
    low, high = interval(task, "quadratic_kappa", *GRADES)
    assert low < kappa < high
    same = np.zeros(9, int)
    assert score(task, same, same) == {"accuracy": 1.0, "quadratic_kappa": 0.0, "mae": 0.0}


def test_metrics_of_numbers_besides_the_correlations():
    task = tasks.get("stsb").with_metric("mae").with_metric("r2")
    found = score(task, *NUMBERS)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(NUMBERS[1], NUMBERS[0]))
    assert found["r2"] == pytest.approx(sk.r2_score(NUMBERS[1], NUMBERS[0]))
    assert [higher_is_better(name) for name in ("mae", "r2")] == [False, True]
