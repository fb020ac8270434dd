"""Kill anywhere, resume bit-exact: trainings and searches that SIGKILL ends again and again, against undisturbed ones.

    python scripts/kill_and_resume.py --kills 60 --out results/killed

Every configuration trains a tiny random encoder on a few bundled sentences for 30 steps: dropout, two batches a step, checkpoints, log
lines, ticks and evaluations out of step with each other and with the epochs. The undisturbed run is made once by the command line. A
trial is the same training in processes that die one to three times, each time to be resumed: at a random time of the whole training,
or aimed at a fault point (a tick, an evaluation, a checkpoint whose files are written but not named, half a record of metrics.jsonl, a
resume; all of them: lorakit/artifacts/fault_points.py). At its end every file must be that of the undisturbed run but for wall-clock
times: adapter, best adapter, metrics, timeline, summary, the checkpoints that are left.
Prints where the kills met the process, and how many of them were survived; exit code 1 where one was not. Writes OUT/killed.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from bench.measuring import random_model

from lorakit.artifacts.run import environment
from lorakit.errors import LorakitError
from lorakit.recipe.load import LoadedRecipe, load_recipe
from lorakit.searching.allocator import comes_before_training
from lorakit.workflow.doctor.crash_resume import crash_and_resume, differences, outcome
from lorakit.workflow.doctor.faults import Ended, Kill, run_process

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
RECIPE = """
extends: demo
model: {{name: {model}}}
task: {{max_train_rows: 48, max_eval_rows: 32, max_length: 32}}
adapter: {{targets: [q, v], shortcuts: [], rank: 4, dropout: 0.1}}
search: {{method: none}}
run: {{offline: true}}
"""
COMMON = (
    "training.epochs=5",
    "training.batch_size=4",
    "training.accumulate=2",  # 6 steps an epoch
    "evaluation.every_steps=7",
    "run.log_every=4",
    "run.checkpoint_every=0.4",  # 3 steps
    "search.every=0.8",  # 5 steps
)
HETEROLORA = (
    "search.method=heterolora",
    "search.batches=2",
    "adapter.targets=[q,v,up]",
    "adapter.shortcuts=[res1,in,mid]",
)
CONFIGURATIONS = {
    "lora": (),
    "heterolora": (*HETEROLORA, "search.scoring=separate", "search.enable=0.4"),
    "streaming": (*HETEROLORA, "search.scoring=streaming", "search.enable=0.4"),
    "adalora": ("adapter.method=adalora", "search.method=adalora", "search.uniform_rank=2"),
    "dylora": ("search.method=dylora",),
    "glora": (
        "adapter.method=glora",
        "adapter.dropout=0",  # it can have none; the encoder's own stays
        "search.method=glora",
        "search.options={holdout: 0.2, population: 6, parents: 3, generations: 4}",
    ),
}
EVERYWHERE = ("training", "evolution")
"""Points that span everything: a kill in them is at a random time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="killed-") as work:
        trials = run_trials(options.only, options.kills, random.Random(options.seed), Path(work))
    write_table(trials)
    survived = sum(len(trial["crashes"]) for trial in trials if not trial["differences"])
    kills = sum(len(trial["crashes"]) for trial in trials)
    anew = sum(not crash["resumable"] for trial in trials for crash in trial["crashes"])
    print(
        f"{survived} of {kills} kills survived in {len(trials)} trainings, {time.perf_counter() - started:.0f} s.",
        end=" ",
    )
    print(f"{anew} of them came before the first checkpoint: refused to resume, begun anew.")
    report = {"survived": survived, "kills": kills, "begun_anew": anew, "trials": trials, "environment": environment()}
    (options.out / "killed.json").write_text(json.dumps(report, indent=2))
    sys.exit(survived != kills)


def run_trials(names: Sequence[str], kills: int, rng: random.Random, work: Path) -> list[dict[str, Any]]:
    """Trials of every configuration in turn until there were enough kills."""
    recipe = RECIPE.format(model=random_model(SIZES, work))
    subjects = {name: Subject(name, recipe, work / name, rng) for name in names}
    trials: list[dict[str, Any]] = []
    for name in itertools.cycle(names):
        trials.append(subjects[name].trial())
        told = "; ".join(f"{crash['where']}" for crash in trials[-1]["crashes"])
        print(f"{name}: {told}: {'; '.join(trials[-1]['differences']) or 'the same'}", flush=True)
        if sum(len(trial["crashes"]) for trial in trials) >= kills:
            return trials
    return trials


class Subject:
    """A configuration with its undisturbed outcome, and how often and how long the process is at each fault point in it."""

    def __init__(self, name: str, recipe: str, folder: Path, rng: random.Random):
        self.name, self.folder, self.rng = name, folder, rng
        folder.mkdir()
        (folder / f"{name}.yaml").write_text(recipe)
        settings = (*COMMON, *CONFIGURATIONS[name])
        self.loaded: LoadedRecipe = load_recipe(folder / f"{name}.yaml", settings)
        self.by_command_line(self.folder / "undisturbed", settings)
        self.undisturbed = outcome(self.folder / "undisturbed")
        self.measured: Ended = run_process(self.loaded, self.folder / "measured")
        if told := differences(self.undisturbed, outcome(self.folder / "measured")):
            sys.exit(f"{name}: a forked process differs from the command line: {'; '.join(told)} {self.measured.said}")
        self.aims = self.aimed()

    def by_command_line(self, run: Path, settings: Sequence[str]) -> None:
        """The undisturbed run, in a process that shares nothing with the killed ones."""
        command = "search" if comes_before_training(self.loaded.recipe.search) else "train"
        recipe = str(self.loaded.path)
        line = [sys.executable, "-m", "lorakit", command, recipe, *settings, "--run-dir", str(run), "--quiet"]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)

    def aimed(self) -> Iterator[Kill]:
        """Kills without end: every other one at a random time, the others aimed at one point after the other."""
        points = [point for point in self.measured.times if point not in EVERYWHERE] + ["resuming"]
        wide = [point for point in EVERYWHERE if point in self.measured.times]
        self.rng.shuffle(points)
        for point in itertools.cycle(points):
            yield self.kill(self.rng.choice(wide))
            yield self.kill(point)

    def kill(self, point: str) -> Kill:
        """A kill at a random one of the times that the point comes, at random within it."""
        times = self.measured.times.get(point, 1)
        length = self.measured.seconds.get(point, 0.05) / times
        delay = self.rng.choice((0.0, self.rng.uniform(0, length)))
        return Kill(point, self.rng.randint(1, times), self.rng.uniform(0, length) if point in EVERYWHERE else delay)

    def trial(self) -> dict[str, Any]:
        """Train with one to three kills, and compare."""
        run = self.folder / "killed"
        planned = list(itertools.islice(self.aims, self.rng.randint(1, 3)))
        try:
            crashes = [crash.to_dict() for crash in crash_and_resume(self.loaded, run, planned)]
            told = differences(self.undisturbed, outcome(run))
        except LorakitError as error:
            crashes, told = [{"kill": vars(kill), "where": "?", "resumable": True} for kill in planned], [str(error)]
        shutil.rmtree(run, ignore_errors=True)
        return {"configuration": self.name, "crashes": crashes, "differences": told}


def write_table(trials: Sequence[dict[str, Any]]) -> None:
    """Where the kills met the process, by configuration: survived of all."""
    names = list(dict.fromkeys(trial["configuration"] for trial in trials))
    kills, survived = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for trial in trials:
        for crash in trial["crashes"]:
            where = crash["where"].removeprefix("training > ")
            for cell in ((where, trial["configuration"]), (where, "all")):
                kills[cell] += 1
                survived[cell] += not trial["differences"]
    columns = [*names, "all"]
    width = max(len(where) for where, _ in kills)
    print(" " * width, *(f"{name:>12}" for name in columns))
    for where in sorted({where for where, _ in kills}):
        cells = (f"{survived[where, name]} of {kills[where, name]}" if kills[where, name] else "" for name in columns)
        print(f"{where:<{width}}", *(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
