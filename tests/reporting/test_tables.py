import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from lorakit.reporting.grid import site_grid
from lorakit.reporting.tables import (
    Column,
    bar,
    count,
    counted,
    duration,
    facts,
    heat_map,
    memory,
    percent,
    ranks,
    scores,
    table,
)


def text_of(renderable) -> str:
    out = Console(file=io.StringIO(), width=120, color_system=None)
    out.print(renderable)
    return out.file.getvalue()


@dataclass
class Row:
    name: str
    size: int


def test_a_table_has_a_line_per_row_and_sets_numbers_right():
    columns = [Column("name", lambda row: row.name), Column("size", lambda row: count(row.size), right=True)]
    lines = text_of(table([Row("a[b]", 5), Row("c", 12345)], columns, title="sites")).splitlines()
    assert lines[0].strip() == "sites"
    assert [line.split() for line in lines if "a[b]" in line or "12,345" in line] == [["a[b]", "5"], ["c", "12,345"]]
    first, second = (next(line.rstrip() for line in lines if word in line) for word in ("a[b]", "12,345"))
    assert len(first) == len(second)


def test_facts_print_brackets_as_they_are():
    assert text_of(facts([("run", "runs/[x]"), ("time", "3 s")])).split() == ["run", "runs/[x]", "time", "3", "s"]


def test_a_heat_map_leaves_absent_cells_blank():
    grid = site_grid([(0, "q", 8.0), (0, "v", 0.0), (1, "v", 4.0)])
    lines = text_of(heat_map(grid, lambda rank: f"{rank:.0f}" if rank else "·")).splitlines()
    assert [line.split() for line in lines if "layer" in line] == [["layer", "0", "8", "·"], ["layer", "1", "4"]]


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, ""), (1, "████"), (0.5, "██"), (1 / 32, "▏"), (0.53125, "██▏"), (-1, ""), (7, "████")]
)
def test_bars_are_exact_to_an_eighth_of_a_column(share, drawn):
    assert bar(share, width=4) == drawn


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.44, "0.4 s"), (42.4, "42 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def test_figures_in_words():
    assert [counted(number, "site") for number in (0, 1, 1234)] == ["0 sites", "1 site", "1,234 sites"]
    assert (ranks(8, 8), ranks(4, 8)) == ("rank 8", "ranks 4 to 8")
    assert (memory(300 * 2**20), memory(2.5 * 2**30)) == ("300 MiB", "2.5 GiB")
    assert scores({"accuracy": 0.78924, "f1": 0.85}) == "accuracy 0.7892, f1 0.8500"


def test_small_shares_have_a_digit_more():
    told = [percent(share) for share in (0.0, 0.0004, 0.045, 0.0996, 0.45, 1.0)]
    assert told == ["0 %", "under 0.1 %", "4.5 %", "10 %", "45 %", "100 %"]
