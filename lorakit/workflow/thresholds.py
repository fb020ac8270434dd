"""Labels that are answered only where their probability is high enough: ``lorakit predict --threshold LABEL=P``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lorakit.errors import UsageError
from lorakit.tasks.class_weights import places
from lorakit.tasks.label_sets import joined

if TYPE_CHECKING:
    from lorakit.workflow.predict import Prediction

OPTION = "--threshold"
HALF = 0.5
"""From this probability on a label is given, where a text may have several."""


def check_thresholds(asked: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Label -> the least probability it is answered with; labels that are left out are always answered, from one half where a text may
    have several.

    Raises UsageError for labels that the model does not have, and for what is no probability.
    """
    for label, least in asked.items():
        if not 0 <= least <= 1:
            raise UsageError(f"{label}={least:g} is no probability", where=OPTION, valid="0 to 1")
    found = places(tuple(asked), tuple(labels), OPTION, error=UsageError)
    return {labels[place]: asked[label] for label, place in found.items()}


def read_thresholds(options: Sequence[str]) -> dict[str, float]:
    """What ``LABEL=P`` options say; a label may have ``=`` in it. Raises UsageError."""
    found: dict[str, float] = {}
    for option in options:
        label, _, text = option.rpartition("=")
        try:
            least = float(text)
        except ValueError:
            least = -1.0
        if not label or not 0 <= least <= 1:
            raise UsageError(f"'{option}' is not LABEL=P", where=OPTION, valid="a label and a probability, spam=0.9")
        if label in found:
            raise UsageError(f"label '{label}' is given twice", where=OPTION, valid="each label once")
        found[label] = least
    return found


def reaching(answer: Prediction, thresholds: Mapping[str, float]) -> Prediction:
    """The answer with the most probable label that reaches its threshold; where none does without a label.

    Its probability is then still that of the most probable one. Where a text may have several labels, all that reach theirs.
    """
    if not thresholds or answer.probabilities is None:
        return answer
    if answer.probability is None:
        return with_labels(answer, thresholds)
    ranked = sorted(answer.probabilities.items(), key=lambda each: -each[1])
    for label, chance in ranked:
        if chance >= thresholds.get(label, 0.0):
            return replace(answer, label=label, probability=chance, labels=(label,))
    return replace(answer, label="", labels=())


def with_labels(answer: Prediction, thresholds: Mapping[str, float]) -> Prediction:
    """The answer with all labels whose probability is at least their threshold, one half where they have none."""
    chances = answer.probabilities or {}
    given = tuple(label for label, chance in chances.items() if chance >= thresholds.get(label, HALF))
    return replace(answer, label=joined(given, [*chances]), labels=given)
