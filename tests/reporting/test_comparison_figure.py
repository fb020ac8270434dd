import io

import matplotlib.image
import numpy as np
import pytest

from lorakit.reporting import comparison_figure as module
from lorakit.reporting.comparison_figure import comparison_figure
from lorakit.reporting.stats import mean_interval

SIDES = {"lora": {0: 0.70, 1: 0.72, 2: 0.74}, "found": {2: 0.75, 1: 0.71, 5: 0.9}, "alone": {9: 0.6}}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to read them back."""
    kept = []
    save = module.save
    monkeypatch.setattr(module, "save", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


def dots(axes) -> list[list[float]]:
    return [sorted(float(x) for x in points.get_offsets()[:, 0]) for points in axes.collections]


def means(axes) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]


def test_every_seed_is_a_dot_and_the_differences_are_paired(tmp_path, drawn):
    path = comparison_figure(SIDES, "accuracy", tmp_path / "a" / "comparison.png", reference="lora")
    assert matplotlib.image.imread(io.BytesIO(path.read_bytes()), format="png").ndim == 3
    left, right = drawn[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(SIDES)
    assert dots(left) == [sorted(values.values()) for values in SIDES.values()]
    assert means(left) == pytest.approx([0.72, np.mean([0.75, 0.71, 0.9]), 0.6])
    assert dots(right) == [pytest.approx([0.71 - 0.72, 0.75 - 0.74])]
    assert means(right) == pytest.approx([0.0])
    bar = next(line for line in left.lines if line.get_linewidth() > 2)
    assert list(bar.get_xdata()) == list(mean_interval(list(SIDES["lora"].values())))


@pytest.mark.parametrize("sides", [{"lora": {0: 0.7, 1: 0.8}}, {"found": {0: 0.7}, "other": {1: 0.6}}])
def test_without_pairs_there_is_no_right_half(tmp_path, drawn, sides):
    comparison_figure(sides, "mse", tmp_path / "comparison.png", reference="lora", rises=False)
    (only,) = drawn[0].axes
    assert only.get_xlabel() == "mse, last epoch (lower is better)"
