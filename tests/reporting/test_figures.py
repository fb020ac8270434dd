import io

import matplotlib.image
import pytest

from lorakit.backbone.site import Site
from lorakit.recipe.schema import SHORTCUTS
from lorakit.reporting import figures
from lorakit.reporting.figures import site_heatmap, training_curves


def two_layers() -> list[Site]:
    sites = [Site(f"layer.{layer}.{role}", layer, role, 8, 8, "linear") for layer in (0, 1) for role in ("q", "v")]
    absent = {(1, "cut"), (0, "mid")}
    return sites + [
        Site(f"layer.{layer}.{role}", layer, role, 8, 8, "shortcut")
        for layer in (0, 1)
        for role in SHORTCUTS
        if (layer, role) not in absent
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to read their text back."""
    kept = []
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


def test_heat_map_writes_each_share_and_leaves_absent_cells_blank(tmp_path, drawn):
    timeline = [{"tick": 0, "on": ["layer.0.q", "layer.1.v"]}, {"tick": 1, "on": ["layer.0.q"]}]
    path = site_heatmap(timeline, two_layers(), tmp_path / "report" / "sites.png")
    assert matplotlib.image.imread(io.BytesIO(path.read_bytes()), format="png").ndim == 3
    axes = drawn[0].axes[0]
    cells = {
        (round(text.get_position()[0], 1), round(text.get_position()[1], 1)): text.get_text() for text in axes.texts
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["q", "v", *SHORTCUTS, "mean"]
    assert (cells[0, 0], cells[1, 0], cells[0, 1], cells[1, 1]) == ("100", "0", "0", "50")
    columns = ["q", "v", *SHORTCUTS]
    assert (columns.index("mid"), 0) not in cells
    assert (columns.index("cut"), 1) not in cells
    assert cells[0, 2.3] == "50"  # role q: (100 + 0) / 2
    assert cells[7.3, 1] == "8"  # layer 1: 50 over six sites
    assert len(cells) == 12 + 2 + 7 + 1  # sites, layers, roles, all


def test_a_name_that_is_no_site_is_not_silently_dropped(tmp_path):
    with pytest.raises(KeyError):
        site_heatmap([{"on": ["layer.9.q"]}], two_layers(), tmp_path / "sites.png")


def test_curves_hold_the_losses_scores_and_ticks(tmp_path, drawn):
    metrics = [
        {"step": 20, "epoch": 0.2, "loss": 0.5, "lr": 1e-4},
        {"step": 10, "epoch": 0.1, "loss": 0.7, "lr": 5e-5},
        {"step": 20, "epoch": 0.2, "split": "validation", "scores": {"accuracy": 0.7, "f1": 0.8}},
    ]
    path = training_curves(metrics, [0, 10], tmp_path / "curves.png")
    assert matplotlib.image.imread(io.BytesIO(path.read_bytes()), format="png").ndim == 3
    upper, lower = drawn[0].axes
    loss, *verticals = upper.lines
    assert (list(loss.get_xdata()), list(loss.get_ydata())) == ([10, 20], [0.7, 0.5])
    assert [line.get_xdata()[0] for line in verticals] == [0, 10]
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["accuracy", "f1"]


def test_two_validation_sets_are_told_apart(tmp_path, drawn):
    metrics = [
        {"step": 5, "epoch": 1.0, "split": split, "scores": {"accuracy": 0.7}}
        for split in ("validation_matched", "validation_mismatched")
    ]
    training_curves(metrics, [], tmp_path / "curves.png")
    names = [text.get_text() for text in drawn[0].axes[1].get_legend().get_texts()]
    assert names == ["validation_matched accuracy", "validation_mismatched accuracy"]


def test_an_empty_run_can_be_drawn(tmp_path):
    assert site_heatmap([], two_layers(), tmp_path / "sites.png").is_file()
    assert training_curves([], [], tmp_path / "curves.png").is_file()
