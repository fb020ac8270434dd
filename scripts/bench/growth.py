"""How training and search grow with adapted sites, rank, layers and length of the rows: times, straight lines through them, a figure.

    python scripts/bench/growth.py --out results/growth                                   # 2 minutes on 2 free cores
    python scripts/bench/growth.py --out results/growth --hidden 768 --rounds 30 --batch-size 32      # on a GPU

Encoders of random weights, adapted at q, k, v and o (fewer of them where sites are counted) and varied in one thing at a time:

    step        a training step with every site on
    separate    scoring one batch in a pass of its own, with every site on: `search.scoring: separate`
    streaming   what scoring from a training step adds to it, with a quarter of the sites on: `search.scoring: streaming`

In every round each point makes each of these once, in an order that turns, so that what else the machine does meets all alike. A
point's time is the median step of the base point times the median over rounds of its ratio to that round's. Printed is the line through the
points of each row: milliseconds for one unit more, the same in percent of the base point, and R^2, the share of the variance that
the line explains. Writes OUT/growth.json and OUT/growth.png.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from measuring import clock, made_up, random_model, timed, training_of, turned

from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.searching.allocators.heterolora import HeteroLoRA
from lorakit.training.loader import StepBatch
from lorakit.training.loop import step

ROLES = ["q", "k", "v", "o"]
MEASURED = ["step", "separate", "streaming"]


@dataclass(frozen=True)
class Point:
    """What one encoder is like: layers, adapted roles in each, rank, tokens in a row."""

    layers: int = 4
    roles: int = 4
    rank: int = 8
    tokens: int = 64

    @property
    def sites(self) -> int:
        """Adapted sites."""
        return self.layers * self.roles


BASE = Point()
AXES: dict[str, tuple[str, int, list[Point]]] = {
    "sites": ("site", 1, [replace(BASE, roles=roles) for roles in (1, 2, 3, 4)]),
    "rank": ("unit of rank", 1, [replace(BASE, rank=rank) for rank in (4, 8, 16, 32)]),
    "layers": ("layer", 1, [replace(BASE, layers=layers) for layers in (2, 4, 6, 8)]),
    "tokens": ("64 tokens", 64, [replace(BASE, tokens=tokens) for tokens in (32, 64, 128, 192)]),
}
"""What is varied: name -> how the line's unit is called, how many of it that is, the points."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    points = list(dict.fromkeys(point for _, _, points in AXES.values() for point in points))
    with tempfile.TemporaryDirectory() as folder:
        racers = {point: build(point, options, Path(folder) / str(place)) for place, point in enumerate(points)}
        seconds = race(racers, options.rounds, options.warmup)
    times = {
        what: {point: paired(seconds[point][what], seconds[BASE]["step"]) for point in points} for what in MEASURED
    }
    lines = [
        line(axis, what, [(getattr(point, axis), times[what][point]) for point in on_axis])
        for axis, (_, _, on_axis) in AXES.items()
        for what in MEASURED
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    report = {
        "settings": vars(options) | {"out": str(options.out)},
        "base": vars(BASE) | {"sites": BASE.sites},
        "lines": lines,
        "seconds": [
            {"layers": p.layers, "sites": p.sites, "rank": p.rank, "tokens": p.tokens, **seconds[p]} for p in points
        ],
        "threads": torch.get_num_threads(),
        "clock": clock(),
        "environment": environment(),
    }
    write_json(options.out / "growth.json", report)
    show(lines)
    draw(lines, options.out / "growth.png")


def build(point: Point, options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], float]]:
    """What measures an encoder: name -> seconds of one go."""
    sizes = {
        "hidden_size": options.hidden,
        "num_hidden_layers": point.layers,
        "num_attention_heads": max(options.hidden // 32, 1),
        "intermediate_size": 4 * options.hidden,
    }
    settings = [
        f"model.name={random_model(sizes, folder)}",
        f"task.max_length={point.tokens}",
        f"adapter.targets=[{','.join(ROLES[: point.roles])}]",
        "adapter.shortcuts=[]",
        f"adapter.rank={point.rank}",
        "search.batches=1",
        f"training.batch_size={options.batch_size}",
    ]
    training, search = training_of("demo", settings, folder / "run")
    assert search is not None
    adapted, allocator = training.adapted, search.allocator
    assert isinstance(allocator, HeteroLoRA)
    assert allocator.streaming is not None
    streaming = allocator.streaming
    batch = made_up(options.batch_size, point.tokens, training.accelerator.device)
    allocator.context = replace(allocator.context, draw=lambda number, generator: [batch])
    step_batch = StepBatch([batch], options.batch_size)
    training.model.train()
    every, quarter = list(adapted.adapters), list(adapted.adapters)[::4]

    def trained(on: list[str], watched: bool) -> float:
        """A step with these sites on; watched, with the scores that come of it."""
        adapted.switch(on)
        streaming.steps = {training.state.step} if watched else set()

        def act() -> None:
            step(training, step_batch)
            if watched:
                allocator.score()

        seconds = timed(act)
        training.losses.clear()
        training.norms.clear()
        return seconds

    def separate() -> float:
        adapted.switch(quarter)
        return timed(allocator.score)  # nothing was watched: passes of its own

    return {
        "step": partial(trained, every, False),
        "separate": separate,
        "streaming": lambda: trained(quarter, True) - trained(quarter, False),
    }


def race(
    racers: dict[Point, dict[str, Callable[[], float]]], rounds: int, warmup: int
) -> dict[Point, dict[str, list[float]]]:
    """Seconds of every point's goes."""
    seconds: dict[Point, dict[str, list[float]]] = {point: {what: [] for what in MEASURED} for point in racers}
    for number in range(warmup + rounds):
        for point in turned(list(racers), number):
            for what in turned(MEASURED, number):
                taken = racers[point][what]()
                if number >= warmup:
                    seconds[point][what].append(taken)
    return seconds


def paired(ours: list[float], steps: list[float]) -> float:
    """Milliseconds: the median of the base point's steps times the median ratio to them."""
    return 1000 * statistics.median(steps) * statistics.median(a / b for a, b in zip(ours, steps, strict=True))


def line(axis: str, what: str, points: list[tuple[int, float]]) -> dict[str, Any]:
    """The least-squares line through (value, milliseconds), its slope for a unit of the axis."""
    unit, size, _ = AXES[axis]
    values, times = np.array(points, dtype=float).T
    slope, start = np.polyfit(values, times, 1)
    rest = times - (start + slope * values)
    base = dict(points)[getattr(BASE, axis)]
    return {
        "axis": axis,
        "what": what,
        "unit": unit,
        "points": points,
        "start_ms": float(start),
        "slope_ms": float(slope * size),
        "slope_percent": float(100 * slope * size / base),
        "r2": float(1 - rest @ rest / max(((times - times.mean()) ** 2).sum(), np.finfo(float).tiny)),
    }


def show(lines: list[dict[str, Any]]) -> None:
    """The table."""
    print(f"{'what':10} {'for one more':14} {'ms':>9} {'% of base':>10} {'R^2':>6}   milliseconds at each value")
    for each in lines:
        told = "  ".join(f"{value}: {time:.1f}" for value, time in each["points"])
        print(
            f"{each['what']:10} {each['unit']:14} {each['slope_ms']:>9.2f} {each['slope_percent']:>10.1f} {each['r2']:>6.3f}   {told}"
        )


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """A panel for each quantity (down) and axis (across), its points and its line."""
    figure, panels = plt.subplots(
        len(MEASURED), len(AXES), figsize=(11, 7), sharex="col", layout="constrained", squeeze=False
    )
    for each in lines:
        panel = panels[MEASURED.index(each["what"])][list(AXES).index(each["axis"])]
        values, times = zip(*each["points"], strict=True)
        size = AXES[each["axis"]][1]
        ends = np.array([0, max(values)])
        panel.plot(ends, each["start_ms"] + each["slope_ms"] / size * ends, color="0.6", zorder=1)
        panel.scatter(values, times, color="C0", zorder=2)
        more = each["unit"] if size > 1 else f"1 {each['unit']}"
        panel.set_title(f"{more} more: {each['slope_ms']:.2f} ms, R² {each['r2']:.2f}", fontsize=9)
        panel.set_xlim(left=0)
        panel.set_ylim(0, 1.15 * max(times))
        panel.spines[["top", "right"]].set_visible(False)
    for row, what in enumerate(MEASURED):
        panels[row][0].set_ylabel(f"{what}, ms")
    for column, axis in enumerate(AXES):
        panels[-1][column].set_xlabel(axis)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
