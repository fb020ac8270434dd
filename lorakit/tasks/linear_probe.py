"""Linear models of fixed features, by scikit-learn: how strongly they are held back is chosen on the training rows themselves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lorakit.tasks.task import Task

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the smaller, the nearer to zero
CLEARLY = 1.02  # over the lowest loss so far
FEW = 1e-2  # where there are too few rows to choose
FOLDS = 5
ITERATIONS, TOLERANCE = 2_000, 1e-3  # scikit-learn's 1e-4 moves the loss by 0.001 and takes twice as long
DEAD = 1e-3  # of the usual deviation: features that differ less between rows are not looked at


@dataclass(frozen=True)
class Probe:
    """What a linear model of features costs on rows that it was not fitted to: loss; strength: at which it costs that, None where none was
    chosen.
    """

    loss: float
    strength: float | None = None


def fit_classes(features: NDArray[np.float32], labels: NDArray[np.int64], strength: float | None = None) -> Any:
    """Logistic regression on features (n, width), each scaled to mean 0 and deviation 1; labels: (n,) of two classes or more.

    Its strength, where it is not given, is the one with the smallest log-loss over FOLDS folds of these rows. A pipeline: ``predict``,
    ``predict_proba``.
    """
    if int(np.unique(labels, return_counts=True)[1].min()) < 2:
        with warnings.catch_warnings():  # labels of text are classes, however many there are
            warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
            return logistic().fit(features, labels)
    return logistic(strength or over_folds(features, labels).strength or FEW).fit(features, labels)


def probe(features: NDArray[np.float32], labels: NDArray[Any], task: Task) -> Probe | None:
    """What a linear model of these features costs over FOLDS folds of them; None for too few rows.

    The mean log-loss of logistic regression at its best strength, over the classes of FOLDS rows or more where there are two of them; of
    several labels a row the mean over those that FOLDS rows have and lack; for numbers the mean squared error of ridge regression.
    Draws nothing. features: (n, width); labels: as ``fit_outputs`` has them.
    """
    features = features * living(features)
    if task.regression:
        return None if len(labels) < FOLDS else Probe(number_loss(features, labels))
    if not task.multi_label:
        return class_probe(features, labels)
    often = [place for place in range(labels.shape[1]) if FOLDS <= labels[:, place].sum() <= len(labels) - FOLDS]
    found = [class_probe(features, labels[:, place].astype(np.int64), (FEW,)) for place in often]
    losses = [each.loss for each in found if each is not None]
    return Probe(float(np.mean(losses))) if losses else None


def class_probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], strengths: Sequence[float] = STRENGTHS
) -> Probe | None:
    """For classes that exclude each other, the best of ``strengths``; None for fewer than two classes."""
    present, rows = np.unique(labels, return_counts=True)
    least = FOLDS if (rows >= FOLDS).sum() > 1 else 2
    chosen = np.isin(labels, present[rows >= least])
    if (rows >= least).sum() < 2:
        return None
    return over_folds(features[chosen], labels[chosen], strengths)


def over_folds(
    features: NDArray[np.float32], labels: NDArray[np.int64], strengths: Sequence[float] = STRENGTHS
) -> Probe:
    """The strength with the least log-loss over FOLDS folds, fewer where the rarest class has fewer rows; of two or more.

    From the weakest up, each fit from where the one before it ended, and none after the loss has clearly risen: fits of their own, all of
    them, take four times as long.
    """
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.unique(labels, return_counts=True)[1].min())
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    split = [(fitted, held, logistic(warm_start=True)) for fitted, held in folds.split(features, labels)]
    best = Probe(np.inf)
    for strength in sorted(strengths):
        each = []
        for fitted, held, model in split:
            model[-1].C = strength
            model.fit(features[fitted], labels[fitted])
            each.append(log_loss(labels[held], model.predict_proba(features[held]), labels=model.classes_))
        loss = float(np.mean(each))
        if loss < best.loss:
            best = Probe(loss, strength)
        elif loss > CLEARLY * best.loss:
            break
    return best


def logistic(strength: float = FEW, *, warm_start: bool = False) -> Any:
    """Logistic regression on features that are scaled to mean 0 and deviation 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=TOLERANCE, warm_start=warm_start)
    return make_pipeline(StandardScaler(), model)


def number_loss(features: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """The squared error of ridge regression over folds, at the best of STRENGTHS."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, folds = make_pipeline(StandardScaler(), Ridge()), KFold(FOLDS, shuffle=True, random_state=0)
    grid = {"ridge__alpha": [1 / strength for strength in STRENGTHS]}
    search = GridSearchCV(model, grid, scoring="neg_mean_squared_error", cv=folds, refit=False)
    return -float(search.fit(features, labels).best_score_)


def fit_outputs(
    features: NDArray[np.float32], labels: NDArray[Any], task: Task, strength: float | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight (labels, width) and bias (labels,) of an output layer that fits the labels of ``task``.

    strength: for classes, where it is known already (``probe``). Classes: (n,) ids; several labels a row: (n, labels) of 0 and 1;
    numbers: (n,), by ridge regression. A class or label that no row has keeps weights of 0 and the log-odds of half a row.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    alive = living(features)
    scaler = StandardScaler().fit(features)
    features = scaler.transform(features) * alive
    if task.regression:
        ridge = RidgeCV(alphas=[1 / strength for strength in STRENGTHS]).fit(features, labels)
        found = [(np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_))]
    elif task.multi_label:
        found = [one_label(features, labels[:, place]) for place in range(labels.shape[1])]
    else:
        found = [all_classes(features, labels, task.num_labels, strength)]
    weight = np.concatenate([each for each, _ in found]) / scaler.scale_ * alive
    bias = np.concatenate([each for _, each in found]) - weight @ scaler.mean_
    return weight.astype(np.float32), bias.astype(np.float32)


def living(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which features (width,) tell rows apart. MiniLM's states have three that are some 1e-9 in every text: scaled to deviation 1 they
    are rounding, and an output layer that is to read it has weights of 1e30, which a training then moves texts along.
    """
    deviations = features.std(axis=0, dtype=np.float64)
    found: NDArray[np.bool_] = deviations > DEAD * np.median(deviations)
    return found


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
    features: NDArray[np.float32], labels: NDArray[np.int64], number: int, strength: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (classes, width) and bias (classes,), for scaled features, of classes that exclude each other."""
    present = np.unique(labels)
    weight, bias = np.zeros((number, features.shape[1])), np.full(number, np.log(0.5 / len(labels)))
    if len(present) < 2:
        bias[present] = 0.0
        return weight, bias
    fitted = fit_classes(features, labels, strength)[-1]
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(present) == 2:  # one row, for the second class against the first
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight[present], bias[present] = coefficients, intercepts
    return weight, bias
