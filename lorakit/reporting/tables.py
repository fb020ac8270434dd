"""Tables for people: of dataclasses, of facts, and heat maps in text. Colour comes only where the terminal takes it.

rich is imported where something is drawn, not here: every command imports this module, and completion must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.reporting.grid import Grid
    from lorakit.tasks.baselines import Baseline


@dataclass(frozen=True)
class Column:
    """One column: its title, how a row gives its cell, and whether it is set right (numbers)."""

    title: str
    cell: Callable[[Any], object]
    right: bool = False


def table(rows: Iterable[object], columns: Sequence[Column], *, title: str = "") -> Table:
    """One line per row, one cell per column."""
    from rich.text import Text

    drawn = frame(title)
    for column in columns:
        # Names and numbers stay whole; on a narrow terminal it is the prose between them that is folded.
        whole = column.right or column is columns[0]
        drawn.add_column(
            Text(column.title), justify="right" if column.right else "left", no_wrap=whole, overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(Text(str(column.cell(row))) for column in columns))
    return drawn


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns, without lines."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        drawn.add_row(Text(name), Text(value))
    return drawn


def heat_map(grid: Grid, show: Callable[[float], str], *, title: str = "") -> Table:
    """Layers by roles; ``show`` writes a cell, and the larger its value the stronger its colour. Absent cells are blank."""
    from rich.text import Text

    from lorakit.reporting.grid import layer_name

    drawn = frame(title)
    drawn.add_column("")
    for role in grid.roles:
        drawn.add_column(Text(role), justify="right", no_wrap=True)
    top = max(grid.values.values(), default=0.0)
    for layer in grid.layers:
        cells = []
        for role in grid.roles:
            value = grid.values.get((layer, role))
            cells.append(Text("") if value is None else Text(show(value), style=heat(value / top if top > 0 else 0.0)))
        drawn.add_row(Text(layer_name(layer)), *cells)
    return drawn


def frame(title: str) -> Table:
    """An empty table in the house's look."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        box=SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        pad_edge=False,
    )


def heat(share: float) -> str:
    """The rich style of a share of the largest value: from dim to strong."""
    if share <= 0:
        return "dim"
    return "cyan" if share < 0.5 else "bold cyan"


def bar(share: float, width: int = 20) -> str:
    """A bar of ``width`` columns at most for a share of 0 to 1, to an eighth of a column."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def count(number: int) -> str:
    """``1,234,567``."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """``1 site``, ``1,234 sites``: a number of things whose plural takes an s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ranks(lowest: int, highest: int) -> str:
    """``rank 8`` or ``ranks 4 to 8``: those of several sites."""
    return f"rank {lowest}" if lowest == highest else f"ranks {lowest} to {highest}"


def scores(values: Mapping[str, float]) -> str:
    """``accuracy 0.7892, f1 0.8512``."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def baseline_facts(baselines: Iterable[Baseline]) -> list[tuple[str, str]]:
    """A fact for each simple classifier: its scores, what it is, and which rows it was trained on where not all."""
    return [
        (
            f"baseline {baseline.name}",
            f"{scores(baseline.scores) or 'not made'}  ({'; '.join(filter(None, (baseline.title, baseline.note)))})",
        )
        for baseline in baselines
    ]


def averaged_words(told: Mapping[str, float]) -> str:
    """What the last weights are a mean of, in a sentence, for a summary's ``averaged``; empty where nothing was to be averaged."""
    if not told:
        return ""
    if told["snapshots"] < 2:
        return "the last weights are no mean: the training ended before a second snapshot of what was on"
    words = f"the last weights are the mean of {told['snapshots']:.0f} snapshots, of steps {told['first']:,.0f} to {told['last']:,.0f}"
    return words + (f"; the ranks lost {percent(told['cut'])} of its squared norm" if told["cut"] else "")


def frozen_words(told: Mapping[str, float]) -> str:
    """What became of frozen lower layers, in a sentence, for a summary's ``frozen``; empty where none were."""
    if not told:
        return ""
    words = f"{told['layers']:.0f} of {told['of']:.0f} layers were frozen, and "
    if not told["bytes"]:
        return words + "run in every step"
    return (
        words
        + f"run once a row, which took {duration(told['seconds'])} before the training and {memory(told['bytes'])} of disk"
    )


def percent(share: float) -> str:
    """``45 %``; small shares with a digit more: ``4.5 %``."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(amount: float) -> str:
    """``312 MiB`` or ``2.4 GiB``, of a number of bytes."""
    mebibytes = amount / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"
