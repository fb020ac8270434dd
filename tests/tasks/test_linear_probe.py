import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lorakit.tasks.linear_probe import FEW, fit_classes, fit_outputs
from lorakit.tasks.task import Task

DRAW = np.random.default_rng(0)
FEATURES = DRAW.normal(3.0, 2.0, (90, 5)).astype(np.float32)


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
    expected = LogisticRegression(C=FEW, max_iter=2000).fit(scaled, references)
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
