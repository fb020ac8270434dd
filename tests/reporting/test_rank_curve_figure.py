"""The figure of a run at several ranks shows each point where it is."""

from __future__ import annotations

import pytest

from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.reporting.page_figures import curve_drawing
from lorakit.reporting.rank_curve_figure import rank_curve_figure
from lorakit.reporting.score_axis import score_limits
from lorakit.reporting.summary import Outcome

OUTCOME = Outcome("custom", "accuracy", finished=True)
POINTS = [RankPoint(4, 4096, {"accuracy": 0.875}, 0.31), RankPoint(1, 1024, {"accuracy": 0.75}, 0.52)]


def test_loss_and_metric_over_parameters() -> None:
    loss, metric = rank_curve_figure(POINTS, "accuracy").axes
    assert loss.lines[0].get_xydata().tolist() == [[1024, 0.52], [4096, 0.31]]
    assert metric.lines[0].get_xydata().tolist() == [[1024, 0.75], [4096, 0.875]]
    assert [text.get_text() for text in loss.texts] == ["rank 1", "rank 4"]
    assert loss.get_ylim()[0] == 0
    assert metric.get_ylim() == pytest.approx(score_limits([0.75, 0.875]))
    assert (loss.get_ylabel(), metric.get_ylabel()) == ("log-loss (nats)", "accuracy")


def test_what_has_no_loss_has_its_metric_alone() -> None:
    points = [RankPoint(point.rank, point.parameters, {"pearson": 0.5}, None) for point in POINTS]
    (axes,) = rank_curve_figure(points, "pearson").axes
    assert axes.get_ylabel() == "pearson"


@pytest.mark.parametrize("points", [[], POINTS[:1]])
def test_less_than_two_points_are_no_curve(points: list[RankPoint]) -> None:
    assert list(curve_drawing(points, OUTCOME)) == []


def test_it_says_from_where_to_where() -> None:
    (drawing,) = curve_drawing(POINTS, OUTCOME)
    assert "from 1,024 at rank 1 to 4,096 at rank 4" in drawing.alt
