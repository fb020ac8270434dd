"""The tiles of class against class: few rows are pale, whatever their share."""

import pytest

from lorakit.reporting.confusion_figure import confusion, sure_share


def test_the_share_is_wilsons_lower_end():
    """Wilson (1927): (p + z²/2n - z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n); of all n it is 1 / (1 + z²/n)."""
    z = 1.959963984540054
    assert sure_share(2, 2) == pytest.approx(1 / (1 + z**2 / 2))
    assert sure_share(200, 200) == pytest.approx(1 / (1 + z**2 / 200))
    assert sure_share(0, 5) == sure_share(0, 0) == 0


def test_two_rows_are_paler_than_two_hundred_and_rows_are_counted():
    axes = confusion(["rare", "common"], [[2, 0], [0, 200]]).axes[0]
    alpha = [patch.get_facecolor()[3] for patch in axes.patches]
    assert alpha[0] < 0.5 * alpha[3]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rare (2)", "common (200)"]
