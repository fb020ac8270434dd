from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from lorakit.tasks import linear_probe
from lorakit.tasks.linear_probe import FEW, FOLDS, STRENGTHS, fit_classes, fit_outputs, probe
from lorakit.tasks.task import Task

TIGHT = 1e-9
DRAW = np.random.default_rng(0)
FEATURES = DRAW.normal(3.0, 2.0, (90, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def to_the_end(monkeypatch: pytest.MonkeyPatch):
    """Fits go on until nothing moves, here and there: what they come to is then the same, wherever they began."""
    monkeypatch.setattr(linear_probe, "TOLERANCE", TIGHT)


def task(*labels, multi_label=False):
    return Task("custom", "", ("text",), "label", labels, ("accuracy",), multi_label=multi_label)


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c")])
def test_the_output_layer_says_what_scikit_learn_says(labels):
    references = (np.digitize(FEATURES[:, 0] + DRAW.normal(0, 0.5, 90), [3.0, 4.5]) % len(labels)).astype(np.int64)
    weight, bias = fit_outputs(FEATURES, references, task(*labels))
    logits = FEATURES @ weight.T + bias
    chances = np.exp(logits - logits.max(1, keepdims=True))
    scaled = StandardScaler().fit_transform(FEATURES)
    # The features are scaled once for the layer; the fit scales them a second time, which leaves them as they are.
    expected = fit_classes(scaled, references).predict_proba(scaled)
    assert chances / chances.sum(1, keepdims=True) == pytest.approx(expected, abs=1e-4)


def test_few_rows_are_fitted_at_a_fixed_strength():
    references = np.array([0] * 89 + [1])
    found = fit_classes(FEATURES, references)
    scaled = StandardScaler().fit_transform(FEATURES)
    expected = LogisticRegression(C=FEW, max_iter=2000, tol=TIGHT).fit(scaled, references)
    assert found.predict_proba(FEATURES) == pytest.approx(expected.predict_proba(scaled), abs=1e-4)


def test_many_classes_are_no_reason_for_a_warning_of_scikit_learn(recwarn):
    fit_classes(FEATURES, np.arange(90))
    assert not [str(found.message) for found in recwarn if "regression problem" in str(found.message)]


def test_a_class_without_rows_is_never_likely():
    references = (FEATURES[:, 1] > 3).astype(np.int64) * 2
    weight, bias = fit_outputs(FEATURES, references, task("a", "none", "c"))
    assert not weight[1].any()
    assert set((FEATURES @ weight.T + bias).argmax(1)) <= {0, 2}


def test_several_labels_a_row_are_questions_of_their_own():
    references = np.stack([FEATURES[:, 0] > 3, np.zeros(90), np.ones(90)], axis=1).astype(np.int8)
    weight, bias = fit_outputs(FEATURES, references, task("x", "never", "always", multi_label=True))
    logits = FEATURES @ weight.T + bias
    assert ((logits[:, 0] > 0) == references[:, 0]).mean() > 0.85
    assert logits[:, 1] == pytest.approx(np.log(0.5 / 90), abs=1e-4)
    assert logits[:, 2] == pytest.approx(np.log(90 / 0.5), abs=1e-4)


def test_numbers_are_fitted_by_least_squares():
    references = FEATURES @ np.array([1.0, -2.0, 0.0, 0.5, 0.0]) + 4
    weight, bias = fit_outputs(FEATURES, references.astype(np.float32), task())
    assert FEATURES @ weight[0] + bias[0] == pytest.approx(references, abs=0.4)


def test_features_that_hardly_differ_are_not_read():
    """Rounding, which happens to tell the classes apart here."""
    references = np.arange(90) % 2
    dead = (1e-9 * (references + 1.0)[:, None]).astype(np.float32)
    features = np.concatenate([FEATURES, dead, np.full((90, 1), 3.0, np.float32)], axis=1)
    weight, bias = fit_outputs(features, references, task("a", "b"))
    assert not weight[:, 5:].any()
    expected, intercept = fit_outputs(FEATURES, references, task("a", "b"))
    assert weight[:, :5] == pytest.approx(expected, abs=1e-4)
    assert bias == pytest.approx(intercept, abs=1e-4)
    losses = [cost(each, references, task("a", "b")) for each in (features, FEATURES)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# -- the loss over folds ------------------------------------------------------------------------------------------------


def cost(features, references, of):
    found = probe(features, references, of)
    return None if found is None else found.loss


def by_hand(model_of, folds, loss, references, features=FEATURES):
    """The lowest mean over folds, each fold scaled by the rows that it is fitted to."""
    found = {}
    for strength in STRENGTHS:
        each = []
        for fitted, held in folds.split(features, references):
            scaler = StandardScaler().fit(features[fitted])
            model = model_of(strength).fit(scaler.transform(features[fitted]), references[fitted])
            each.append(loss(references[held], model, scaler.transform(features[held])))
        found[strength] = np.mean(each)
    return min(found.values())


def chances_cost(references, model, features):
    return log_loss(references, model.predict_proba(features), labels=model.classes_)


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c")])
def test_classes_cost_their_log_cost(labels):
    references = (np.digitize(FEATURES[:, 0] + DRAW.normal(0, 1.0, 90), [3.0, 4.5]) % len(labels)).astype(np.int64)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    features = FEATURES.astype(np.float64)  # in which fits can be told apart that end so near to each other
    model_of = partial(LogisticRegression, max_iter=2000, tol=TIGHT)
    expected = by_hand(lambda C: model_of(C=C), folds, chances_cost, references, features)
    assert cost(features, references, task(*labels)) == pytest.approx(expected, rel=1e-6)
    assert 0.2 < expected < 1.0


def test_numbers_cost_their_squared_error_over_folds():
    references = (FEATURES @ np.array([1.0, -2.0, 0.0, 0.5, 0.0]) + DRAW.normal(0, 2.0, 90)).astype(np.float32)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    expected = by_hand(
        lambda C: Ridge(alpha=1 / C), folds, lambda y, model, x: mean_squared_error(y, model.predict(x)), references
    )
    assert cost(FEATURES, references, task()) == pytest.approx(expected, rel=1e-4)


def test_several_labels_cost_the_mean_over_those_that_rows_have_and_lack():
    first, second = FEATURES[:, 0] > 3, FEATURES[:, 1] + DRAW.normal(0, 2.0, 90) > 3
    references = np.stack([first, np.zeros(90), second], axis=1).astype(np.int8)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    each = []
    for has in (first, second):
        model = LogisticRegression(C=FEW, max_iter=2000, tol=TIGHT)
        each.append(by_hand(lambda C, model=model: model, folds, chances_cost, has.astype(np.int64)))
    found = cost(FEATURES, references, task("x", "never", "z", multi_label=True))
    assert found == pytest.approx(np.mean(each), rel=1e-6)


def test_rare_classes_are_left_out_of_the_folds():
    references = np.concatenate([np.digitize(FEATURES[:-2, 0], [3.0]), [2, 3]]).astype(np.int64)
    without = cost(FEATURES[:-2], references[:-2], task("a", "b"))
    assert cost(FEATURES, references, task("a", "b", "c", "d")) == without
    few = cost(FEATURES[:4], np.array([0, 0, 1, 1]), task("a", "b"))
    assert few is not None


@pytest.mark.parametrize("references", [np.zeros(90, np.int64), np.arange(90)])
def test_there_are_labels_that_no_fold_can_tell_apart(references):
    assert cost(FEATURES, references, task("a", "b")) is None
    assert cost(FEATURES[:4], references[:4].astype(np.float32), task()) is None
    several = np.stack([references == 0, references == 0], axis=1).astype(np.int8)
    assert cost(FEATURES, several, task("a", "b", multi_label=True)) is None
