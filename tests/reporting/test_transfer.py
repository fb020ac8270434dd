"""Transfer and forgetting against their published formulas, computed here by numpy, and on matrices whose answer is plain."""

import numpy as np
import pytest

from lorakit.reporting.transfer import average_accuracy, backward_transfer, forgetting, forward_transfer

MATRIX = np.array([[0.9, 0.3, 0.2], [0.6, 0.8, 0.35], [0.7, 0.5, 0.85]])
START = [None, 0.25, 0.4]


def test_they_are_the_published_formulas():
    number = len(MATRIX)
    assert average_accuracy(MATRIX.tolist()) == pytest.approx(MATRIX[-1].mean())
    backward = sum(MATRIX[-1, i] - MATRIX[i, i] for i in range(number - 1)) / (number - 1)
    assert backward_transfer(MATRIX.tolist()) == pytest.approx(backward)
    forward = sum(MATRIX[i - 1, i] - START[i] for i in range(1, number)) / (number - 1)
    assert forward_transfer(MATRIX.tolist(), START) == pytest.approx(forward)
    lost = sum(MATRIX[j:-1, j].max() - MATRIX[-1, j] for j in range(number - 1)) / (number - 1)
    assert forgetting(MATRIX.tolist()) == pytest.approx(lost)


def test_what_nothing_was_lost_of_is_not_forgotten():
    kept = [[0.9, None], [0.9, 0.4]]
    assert backward_transfer(kept) == forgetting(kept) == 0
    assert forward_transfer(kept, [None, None]) is None


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_first():
    up_and_down = [[0.5, None, None], [0.8, 0.6, None], [0.6, 0.6, 0.9]]
    assert backward_transfer(up_and_down) == pytest.approx(0.05)
    assert forgetting(up_and_down) == pytest.approx(0.1)


def test_an_accuracy_that_is_missing_is_no_number():
    with pytest.raises(ValueError, match="missing"):
        average_accuracy([[0.5, None], [0.5, None]])
