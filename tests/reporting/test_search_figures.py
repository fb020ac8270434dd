import numpy as np
import pytest
from support.small_history import CORRELATIONS, SITES, TIMELINE, ranked_history, small_history

from lorakit.reporting.figures import as_svg, curves, heat_map
from lorakit.reporting.history import read_history
from lorakit.reporting.search_figures import OFF, budget_over_time, changes, over_time, score_spread
from lorakit.reporting.stability import measure_stability


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_role_has_a_panel_of_layers_by_ticks():
    figure = over_time(small_history())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["q   11% on", "v   78% on", "res1   44% on"]
    q, v, _ = (axes.images[0].get_array() for axes in figure.axes)
    off = np.all(np.isclose(v, OFF), axis=-1)
    assert off.tolist() == [[False, True, True], [False] * 3, [False] * 3]  # layer 0's v is on at the first tick alone
    assert np.all(np.isclose(q, OFF), axis=-1).sum() == 8
    assert legend(figure) == ["off", "on"]


def test_a_layer_without_a_site_is_empty():
    sites = [site for site in SITES if site.name != "layer.0.res1"]
    timeline = [{**tick, "scores": {}} for tick in TIMELINE]
    res1 = over_time(read_history(timeline, sites)).axes[2].images[0].get_array()
    assert res1[0, :, 3].tolist() == [0.0] * 3
    assert (res1[1:, :, 3] > 0).all()


def test_ranks_are_coloured_by_their_size():
    figure = over_time(ranked_history())
    q, v = (axes.images[0].get_array()[0] for axes in figure.axes)
    assert np.allclose(q[0], v[1])  # rank 4 both
    assert not np.allclose(q[0], q[1])
    assert legend(figure) == ["off", "rank 1", "rank 2", "rank 4"]
    assert figure.axes[0].get_title(loc="left") == "q   rank 2.5"


def test_score_ranges_and_cuts_are_those_of_the_records():
    figure = score_spread(small_history())
    (axes,) = figure.axes
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata())]
    ranges = [list(values) for values in drawn if len(values) == 2]
    assert [6.0, 9.0] in ranges  # chosen at the first tick: 6 to 9, middle half 6.75 to 8.25
    assert [6.75, 8.25] in ranges
    assert [1.0, 5.0] in ranges  # the others
    assert ranges.count([5.0, 5.0]) == 3  # the cuts
    assert axes.get_ylabel() == "score by gradnorm"


@pytest.mark.parametrize(
    ("scores", "scale"), [((1.0, 2.0), "linear"), ((0.001, 5.0), "log"), ((0.0, 0.001, 5.0), "symlog")]
)
def test_wide_scores_are_drawn_on_a_logarithmic_axis(scores, scale):
    named = dict(zip((site.name for site in SITES), scores, strict=False))
    history = read_history([{**TIMELINE[0], "scores": named}], SITES)
    figure = score_spread(history)
    assert figure.axes[0].get_yscale() == scale
    as_svg(figure, "scores")


def test_changes_are_drawn_from_the_second_tick_on():
    history = small_history()
    upper, lower = changes(history, measure_stability(history)).axes
    assert (list(upper.lines[0].get_xdata()), list(upper.lines[0].get_ydata())) == ([10, 20], [0.25, 0.25])
    assert list(lower.lines[0].get_ydata()) == pytest.approx(CORRELATIONS)
    (only,) = changes(ranked_history(), measure_stability(ranked_history())).axes
    assert [list(line.get_ydata()) for line in only.lines] == [[0.0], [0.5]]


def test_budget_stands_over_what_was_on():
    (axes,) = budget_over_time(small_history()).axes
    allowed, on = axes.lines
    assert list(on.get_ydata()) == [500, 600, 500]
    assert list(allowed.get_ydata()) == [650, 650, 650]
    assert axes.get_ylabel() == "adapter parameters"


def test_mean_ranks_are_written_into_their_tiles():
    history = ranked_history()
    figure = heat_map(history.sites, [2.5, 3.0], "ranks", top=3.0, form="{:.1f}")
    assert [text.get_text() for text in figure.axes[0].texts][:2] == ["2.5", "3.0"]


def test_names_from_files_are_not_read_as_mathematics():
    scored = [{"step": 1, "epoch": 1.0, "split": "validation", "scores": {"$\\frac$": 0.5}}]
    assert as_svg(curves(scored, []), "curves").startswith("<svg ")


def test_large_models_fit():
    sites = [
        type(SITES[0])(f"{layer}.{role}", layer, role, 4, 100)
        for layer in range(24)
        for role in ("q", "k", "v", "o", "up", "gate", "down")
    ]
    on = {**TIMELINE[0], "scores": {}, "on": [site.name for site in sites[::2]]}
    figure = over_time(read_history([on] * 20, sites))
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 7
    assert figure.get_figheight() < 12
