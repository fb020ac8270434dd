"""What searches cost, and what `lorakit plan` says they cost: each beside the same training without its search, step by step in turn.

    python scripts/search_overhead.py --out results/overhead            # MRPC at batch 32 and 8, about 25 minutes on 2 cores
    python scripts/search_overhead.py --out results/overhead --cases gradnorm streaming --batch-sizes 32

For every case two models are trained in one process, step by step in turn on the same batches: one with its search, one that has none
and takes over which sites and rank units are on. Printed is what the search adds, in percent of the training without it: its
ticks, and for its steps the median of the ratios of paired steps, for the steps before a tick and the others apart, so that what
else the machine does meets both sides alike. Beside it is the plan of the same recipe, which is good where it is within a fifth of the
measured share, or within a point of it where that is below 2 %. Needs $LORAKIT_GLUE_DIR. Writes OUT/overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from bench.measuring import clock, timed, training_of, turned

import lorakit
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.recipe.load import load_recipe
from lorakit.searching.scoring import without_trace
from lorakit.training.loader import StepBatch
from lorakit.training.loop import Training, step
from lorakit.training.search_hook import SearchHook
from lorakit.training.update import summed_loss

SEPARATE = ["search.scoring=separate", "search.batches=4"]
UNITS = ["adapter.shortcuts=[]", "adapter.rank=12", "search.uniform_rank=8", "search.every=0.05"]
CASES: dict[str, list[str]] = {
    "streaming": ["search.scoring=streaming"],
    "gradnorm": [*SEPARATE, "search.proxy=gradnorm"],
    "snip": [*SEPARATE, "search.proxy=snip"],
    "synflow": [*SEPARATE, "search.proxy=synflow"],
    "constant": [*SEPARATE, "search.proxy=constant"],
    "alpha": ["search.scoring=separate", "search.batches=1", "search.proxy=alpha", "adapter.shortcuts=[]"],
    "adalora": [*UNITS, "adapter.method=adalora", "search.method=adalora", "search.warmup=0.1", "search.tail=0.2"],
    "sora": [*UNITS, "adapter.method=sora", "search.method=sora"],
    "dynamic_dora": [*UNITS, "adapter.method=dora", "search.method=dynamic_dora"],
    "gradsvd": ["adapter.shortcuts=[]", "search.method=gradsvd", "search.batches=4"],
}
NEAR, TINY, POINT = (
    0.2,
    2.0,
    1.0,
)  # how near a plan has to be: a share of the measured percentage, or a point where it is tiny


@dataclass
class Side:
    """One model in training: what its steps took so far, in seconds."""

    training: Training
    steps: list[float] = field(default_factory=list)

    def make(self, window: StepBatch) -> None:
        self.steps.append(timed(partial(step, self.training, window)))
        self.training.losses.clear()
        self.training.norms.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--recipe", default="mrpc-heterolora")
    parser.add_argument("--model", default="bundled:minilm")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 8])
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=0.4, help="length of each training")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe keys for all cases")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{'batch':>5} {'case':14} {'steps':>5} {'ticks':>5} {'measured %':>10} {'planned %':>10}")
    for size in options.batch_sizes:
        for case in options.cases:
            row = measure(case, size, options)
            rows.append(row)
            print(
                f"{size:>5} {case:14} {row['steps']:>5} {row['ticks']:>5} {row['measured']:>10.1f} {row['planned']:>10.1f}"
                f"  {'' if row['near'] else 'off'}",
                flush=True,
            )
            report = {
                "settings": vars(options) | {"out": str(options.out)},
                "threads": torch.get_num_threads(),
                "clock": clock(),
                "rows": rows,
                "environment": environment(),
            }
            write_json(options.out / "overhead.json", report)


def measure(case: str, batch_size: int, options: argparse.Namespace) -> dict[str, Any]:
    """A search beside the training without it, over a whole short training; and its plan."""
    settings = [
        f"model.name={options.model}",
        f"training.batch_size={batch_size}",
        f"training.accumulate={options.accumulate}",
        f"training.epochs={options.epochs}",
        *CASES[case],
        *options.set,
    ]
    with tempfile.TemporaryDirectory() as folder:
        training, search = training_of(options.recipe, settings, Path(folder) / "search")
        assert search is not None
        searching, plain = Side(training), Side(without_search(options.recipe, settings, Path(folder) / "plain"))
        schedule, ticks = training.schedule, []
        for side in (searching, plain):
            warm_up(side.training)
            side.training.model.train()
        for number, window in zip(range(schedule.total_steps), every_window(training), strict=False):
            if number in schedule.ticks:
                ticks.append(timed(partial(search.on_tick, training.state)))
                follow(plain.training, training)
            for side in turned([searching, plain], number):
                side.make(window)
    watched = {
        before
        for tick in schedule.ticks
        for before in range(max(tick - search.allocator.context.search.batches, 0), tick)
    }
    added = sum(ticks) + sum(
        extra(searching.steps, plain.steps, places)
        for places in (sorted(watched), [n for n in range(len(plain.steps)) if n not in watched])
    )
    measured = 100 * added / sum(plain.steps)
    planned = lorakit.plan(load_recipe(options.recipe, [*settings, "run.offline=true"])).search_overhead
    return {
        "case": case,
        "batch_size": batch_size,
        "steps": schedule.total_steps,
        "ticks": len(ticks),
        "sites_on": len(training.adapted.on),
        "sites": len(training.adapted.sites),
        "layers_on": sorted({site.layer for site in training.adapted.sites if site.name in training.adapted.on}),
        "measured": measured,
        "planned": planned,
        "near": abs(planned - measured) <= (POINT if measured < TINY else NEAR * measured),
        "watched": sorted(watched),
        "tick_seconds": ticks,
        "step_seconds": {"search": searching.steps, "plain": plain.steps},
    }


def without_search(recipe: str, settings: list[str], folder: Path) -> Training:
    """The same training, whose search never acts."""
    training, _ = training_of(recipe, settings, folder)
    training.hooks = [hook for hook in training.hooks if not isinstance(hook, SearchHook)]
    training.loss = summed_loss(training.objective, [])
    return training


def every_window(training: Training) -> Iterator[StepBatch]:
    """The windows of one epoch after the other."""
    return chain.from_iterable(training.loader.windows(epoch) for epoch in count())


def warm_up(training: Training) -> None:
    """The process has computed a batch before anything is timed; the training is as it was."""
    (batch,) = training.loader.sample(1, torch.Generator())
    with without_trace(training.adapted, train_mode=True, seed=0):
        loss = training.objective.mean(training.adapted.model, batch)
        torch.autograd.grad(loss, [p for p in training.parameters if p.requires_grad], allow_unused=True)


def follow(training: Training, leader: Training) -> None:
    """The sites and rank units that the leader has on are on."""
    training.adapted.restore_units(leader.adapted.unit_record())
    training.adapted.restore(leader.adapted.states())


def extra(ours: list[float], theirs: list[float], places: list[int]) -> float:
    """Seconds that our steps at these places take more than theirs, by the median ratio of paired steps."""
    if not places:
        return 0.0
    return (statistics.median(ours[n] / theirs[n] for n in places) - 1) * sum(theirs[n] for n in places)


if __name__ == "__main__":
    main()
