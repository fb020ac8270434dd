"""Linear models of fixed features, by scikit-learn: how strongly they are held back is chosen on the training rows themselves."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lorakit.tasks.task import Task

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the smaller, the nearer to zero
FEW = 1e-2  # where there are too few rows to choose
FOLDS = 5
ITERATIONS = 2_000


def fit_classes(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Any:
    """Logistic regression on features (n, width), each scaled to mean 0 and deviation 1; labels: (n,) of two classes or more.

    Its strength is the one with the smallest log-loss over FOLDS folds of these rows. A pipeline: ``predict``, ``predict_proba``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=FEW, max_iter=ITERATIONS))
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < 2:
        with warnings.catch_warnings():  # labels of text are classes, however many there are
            warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
            return model.fit(features, labels)
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    grid = {"logisticregression__C": STRENGTHS}
    return GridSearchCV(model, grid, scoring="neg_log_loss", cv=folds).fit(features, labels).best_estimator_


def fit_outputs(
    features: NDArray[np.float32], labels: NDArray[Any], task: Task
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight (labels, width) and bias (labels,) of an output layer that fits the labels of ``task``.

    Classes: (n,) ids; several labels a row: (n, labels) of 0 and 1; numbers: (n,), by ridge regression. A class or label that no
    row has keeps weights of 0 and the log-odds of half a row.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    features = scaler.transform(features)
    if task.regression:
        ridge = RidgeCV(alphas=[1 / strength for strength in STRENGTHS]).fit(features, labels)
        found = [(np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_))]
    elif task.multi_label:
        found = [one_label(features, labels[:, place]) for place in range(labels.shape[1])]
    else:
        found = [all_classes(features, labels, task.num_labels)]
    weight = np.concatenate([each for each, _ in found]) / scaler.scale_
    bias = np.concatenate([each for _, each in found]) - weight @ scaler.mean_
    return weight.astype(np.float32), bias.astype(np.float32)


def one_label(features: NDArray[np.float32], has: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (1, width) and bias (1,), for scaled features, of whether a row has a label."""
    from sklearn.linear_model import LogisticRegression

    number = int(has.sum())
    if number in (0, len(has)):
        odds = np.log(max(number, 0.5) / max(len(has) - number, 0.5))
        return np.zeros((1, features.shape[1])), np.array([odds])
    # One strength for all labels, which may be many.
    fitted = LogisticRegression(C=FEW, max_iter=ITERATIONS).fit(features, has)
    return fitted.coef_, fitted.intercept_


def all_classes(
    features: NDArray[np.float32], labels: NDArray[np.int64], number: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (classes, width) and bias (classes,), for scaled features, of classes that exclude each other."""
    present = np.unique(labels)
    weight, bias = np.zeros((number, features.shape[1])), np.full(number, np.log(0.5 / len(labels)))
    if len(present) < 2:
        bias[present] = 0.0
        return weight, bias
    fitted = fit_classes(features, labels)[-1]
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(present) == 2:  # one row, for the second class against the first
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight[present], bias[present] = coefficients, intercepts
    return weight, bias
