import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import PathCollection

from lorakit.reporting import sweep_figure as module
from lorakit.reporting.sweep_figure import geometric, sweep_figure

LINES = {"rank=4": {1e-4: [0.7, 0.8], 1e-3: [0.9]}, "rank=8": {3e-4: [0.6, 0.7, 0.8]}}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to read them back."""
    kept = []
    save = module.save
    monkeypatch.setattr(module, "save", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4, 8, 16], True),
        ([1e-4, 3e-4, 1e-3], True),
        ([1, 10], True),
        ([1, 2, 3], False),
        ([4, 8], False),
        ([0.1, 0.2, 0.3, 0.4], False),
        ([0, 1, 100], False),
        ([5], False),
        ([10, 12, 200], True),
    ],
)
def test_what_is_spaced_by_ratios_is_drawn_by_its_logarithm(values, expected):
    assert geometric(values) is expected


def test_runs_are_dots_and_means_are_marks_with_deviations(tmp_path, drawn):
    path = sweep_figure(LINES, "training.lr", "f1", tmp_path / "a" / "sweep.png", rises=False)
    assert matplotlib.image.imread(io.BytesIO(path.read_bytes()), format="png").ndim == 3
    (axes,) = drawn[0].axes
    scattered = [points for points in axes.collections if isinstance(points, PathCollection)]
    dots = [sorted(map(tuple, points.get_offsets().tolist())) for points in scattered]
    assert dots == [[(1e-4, 0.7), (1e-4, 0.8), (1e-3, 0.9)], [(3e-4, 0.6), (3e-4, 0.7), (3e-4, 0.8)]]
    first, second = (container.lines for container in axes.containers)
    assert list(first[0].get_ydata()) == pytest.approx([0.75, 0.9])
    (low, high) = second[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.7 - np.std([0.6, 0.7, 0.8], ddof=1), 0.7 + np.std([0.6, 0.7, 0.8], ddof=1)))
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0001", "0.0003", "0.001"]
    assert [label.get_text() for label in axes.get_legend().get_texts()] == list(LINES)
    assert axes.get_ylabel() == "f1, last epoch (lower is better)"


def test_one_unnamed_line_has_no_legend(tmp_path, drawn):
    sweep_figure({"": {1: [0.7], 2: [0.8]}}, "adapter.rank", "f1", tmp_path / "sweep.png", joined=False)
    (axes,) = drawn[0].axes
    assert axes.get_legend() is None
    assert axes.get_xscale() == "linear"
    assert axes.containers[0].lines[0].get_linestyle() == "None"
