"""What the search costs: HeteroLoRA's steps and ticks against training the same sites without any search, side by side.

    python scripts/search_overhead.py --out results/overhead            # MRPC at batch 32 and 8, about 10 minutes on 2 cores

Three models are trained in one process, step by step in turn on the same batches: `streaming` scores from its training steps, `separate`
from passes of its own, `replay` has no search and switches to the sites that `streaming` has chosen. Printed is the time of all steps
and ticks over that of `replay`, which is what the search adds; order and batches are the same for all, so that what else the machine does
meets all alike. Needs $LORAKIT_GLUE_DIR. Writes OUT/overhead.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.artifacts.run import Run, environment
from lorakit.recipe.load import load_recipe
from lorakit.training.loop import Training, step
from lorakit.training.search_hook import SearchHook
from lorakit.workflow.building import assemble
from lorakit.workflow.running import prepare

SIDES = ("streaming", "separate", "replay")


@dataclass
class Side:
    """One model in training: what its steps and ticks took so far, in seconds."""

    training: Training
    search: SearchHook | None
    steps: list[float] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(self.steps) + sum(self.ticks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="mrpc-heterolora")
    parser.add_argument("--model", default="bundled:minilm")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 8])
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument(
        "--epochs", type=float, default=0.4, help="share of an epoch that is measured: two tick periods by default"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe keys for all sides")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [measure(size, options) for size in options.batch_sizes]
    report = {"settings": vars(options) | {"out": str(options.out)}, "rows": rows, "environment": environment()}
    (options.out / "overhead.json").write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        ratios = "   ".join(f"{side} {row['ratio'][side]:.3f}" for side in SIDES)
        print(
            f"batch {row['batch_size']:>3} x {options.accumulate}, {row['steps']} steps, {row['ticks']} ticks: {ratios}"
        )


def measure(batch_size: int, options: argparse.Namespace) -> dict[str, Any]:
    """All sides over the same steps; their times, and the ratios to ``replay``."""
    settings = [
        f"model.name={options.model}",
        f"training.batch_size={batch_size}",
        f"training.accumulate={options.accumulate}",
        "training.epochs=3",
        "run.offline=true",
        *options.set,
    ]
    with tempfile.TemporaryDirectory() as folder:
        sides = {side: build(options.recipe, side, settings, Path(folder)) for side in SIDES}
        streaming, replay = sides["streaming"], sides["replay"]
        schedule = streaming.training.schedule
        total = round(options.epochs * schedule.steps_per_epoch)
        for window, _ in zip(streaming.training.feed.windows(0), range(total), strict=False):
            number = streaming.training.state.step
            for side in turns(sides, number):
                if number in schedule.ticks:
                    if side.search is None:
                        side.training.adapted.switch(streaming.training.adapted.on)
                    else:
                        side.ticks.append(timed(partial(side.search.on_tick, side.training.state)))
                side.steps.append(timed(partial(step, side.training, window)))
    seconds = {name: side.seconds for name, side in sides.items()}
    return {
        "batch_size": batch_size,
        "steps": total,
        "ticks": len(streaming.ticks),
        "sites_on": len(replay.training.adapted.on),
        "seconds": seconds,
        "ratio": {name: value / seconds["replay"] for name, value in seconds.items()},
        "tick_seconds": {name: side.ticks for name, side in sides.items()},
        "step_seconds": {name: side.steps for name, side in sides.items()},
    }


def turns(sides: dict[str, Side], number: int) -> list[Side]:
    """An order that turns with every step; streaming first where it decides what the replay trains."""
    shift = number % len(sides)
    order = [*sides.values()][shift:] + [*sides.values()][:shift]
    first = sides["streaming"]
    return [first, *(side for side in order if side is not first)] if number in first.training.schedule.ticks else order


def build(recipe: str, side: str, settings: list[str], folder: Path) -> Side:
    """A training that has not begun, of one side."""
    scoring = ["search.scoring=separate"] if side == "separate" else ["search.scoring=streaming"]
    loaded = load_recipe(recipe, [*settings, *scoring])
    parts = assemble(loaded)
    run = Run(folder / side)
    training, search = prepare(loaded, parts, run, [])
    run.start(loaded.to_yaml(), parts.task)
    if side == "replay":
        training.hooks = [hook for hook in training.hooks if not isinstance(hook, SearchHook)]
        search = None
    training.model.train()
    return Side(training, search)


def timed(action: Any) -> float:
    """Seconds that ``action`` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
