"""The tables of a run's page: what ticks told beside their choice, and the run at lower ranks."""

from __future__ import annotations

from support.small_history import SITES, TIMELINE

from lorakit.artifacts.rank_curve_file import RankPoint
from lorakit.reporting.history import read_history
from lorakit.reporting.page_tables import curve_table, tick_table
from lorakit.reporting.stability import measure_stability


def test_what_ticks_measured_has_columns_of_its_own() -> None:
    told = [
        tick | ({"measured": {"score_kept": 0.5 * n, "logits_moved": 1e-4}} if n else {})
        for n, tick in enumerate(TIMELINE)
    ]
    history = read_history(told, SITES)
    table = tick_table(history, measure_stability(history))
    place = table.columns.index("score kept")
    assert table.columns[place + 1] == "logits moved"
    assert [row[place : place + 2] for row in table.rows] == [["", ""], ["0.5", "0.0001"], ["1", "0.0001"]]
    plain = read_history(TIMELINE, SITES)
    assert "score kept" not in tick_table(plain, measure_stability(plain)).columns


def test_a_line_for_each_rank_and_none_without_points() -> None:
    points = [RankPoint(4, 4096, {"accuracy": 0.875}, 0.31), RankPoint(1, 1024, {"accuracy": 0.75}, None)]
    (table,) = curve_table(points)
    assert table.columns == ["", "adapter parameters", "log-loss", "accuracy"]
    assert table.rows == [["rank 4", "4,096", "0.3100", "0.8750"], ["rank 1", "1,024", "", "0.7500"]]
    assert "validation rows" in table.note
    assert curve_table([]) == []
