"""The picture on the front page: how often the demo's search chose each place.

    lorakit train demo && python scripts/pictures/draw.py runs/demo-0

Layers by roles, the share of ticks at which each site was on, from the run's records. Writes demo.svg beside this file, or FILE
(`--out`): text and rectangles, for light and dark pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lorakit.artifacts.files import write_text
from lorakit.artifacts.run import open_run
from lorakit.recipe.schema import SHORTCUTS
from lorakit.reporting.grid import Grid, site_grid
from lorakit.reporting.history import History
from lorakit.workflow.records import read_run

WIDTH, HEIGHT, GAP = 56, 30, 18  # of a cell; between projections and shortcuts
LEFT, TOP = 64, 62
STYLE = """
text { font: 13px sans-serif; fill: #1f2933; text-anchor: middle; dominant-baseline: central }
.head { text-anchor: start; fill: #6b7785 }
.light { fill: #ffffff }
.cell { fill: #125299 }
@media (prefers-color-scheme: dark) { text { fill: #e6eaee } .head { fill: #9aa6b2 } .cell { fill: #4a90d9 } }
"""


def picture(history: History) -> str:
    """The SVG."""
    shares = history.on.mean(axis=1)
    grid = site_grid((site.layer, site.role, share) for site, share in zip(history.sites, shares, strict=True))
    columns = places(grid)
    right, bottom = max(columns.values()) + WIDTH, TOP + HEIGHT * len(grid.layers)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 8} {bottom + 8}" width="{right + 8}">',
        f"<style>{STYLE}</style>",
    ]
    firsts = {
        "projections": min((x for role, x in columns.items() if role not in SHORTCUTS), default=None),
        "shortcuts": min((x for role, x in columns.items() if role in SHORTCUTS), default=None),
    }
    lines += [f'<text class="head" x="{x + 4}" y="14">{name}</text>' for name, x in firsts.items() if x is not None]
    lines += [f'<text x="{x + WIDTH / 2:g}" y="42">{role}</text>' for role, x in columns.items()]
    for row, layer in enumerate(grid.layers):
        y = TOP + HEIGHT * row
        lines.append(f'<text class="head" x="6" y="{y + HEIGHT / 2:g}">layer {layer}</text>')
        lines += [tile(x, y, grid.values[layer, role]) for role, x in columns.items() if (layer, role) in grid.values]
    return "\n".join([*lines, "</svg>"]) + "\n"


def places(grid: Grid) -> dict[str, int]:
    """Role -> the left edge of its column."""
    return {role: LEFT + WIDTH * place + GAP * (role in SHORTCUTS) for place, role in enumerate(grid.roles)}


def tile(x: int, y: int, share: float) -> str:
    """A site: the darker the more often it was on, with that in percent."""
    place = f'x="{x + 1}" y="{y + 1}" width="{WIDTH - 2}" height="{HEIGHT - 2}"'
    light = ' class="light"' if share > 0.5 else ""
    return (
        f'<rect class="cell" {place} rx="3" fill-opacity="{0.06 + 0.94 * share:.2f}"/>'
        f'<text{light} x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2:g}">{round(100 * share)}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run with a search")
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path(__file__).with_name("demo.svg"))
    arguments = parser.parse_args()
    write_text(arguments.out, picture(read_run(open_run(arguments.run)).history))
    print(arguments.out)


if __name__ == "__main__":
    main()
