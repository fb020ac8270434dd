"""What a mechanism is worth: sides of a question trained on the same draws, rates tuned for each, scored on large test parts.

    python scripts/evidence.py scripts/questions/average.yaml --text shared/text --out results/evidence --workers 2

A question is a YAML file: ``title``, ``tasks``, ``base`` (keys that all sides have), ``sides`` (name -> keys of its recipe), ``reference``
(the side that the others are compared to), ``rates``, and where wanted ``seeds``, ``tuning_seeds``, ``test_rows`` (all
by default) and ``curve`` (how often test rows are scored on the way). A side may have rates
of its own; one with ``training.lr`` has none. ``every_rate: true`` scores each rate on the test rows: a grid, for questions about rates.

A unit is one training: a side, a task, a rate, a seed. A seed draws the training rows from a pool, and gives all sides the same
head, order of rows, dropout seed and first rows of A. A side's rate is the one with the smallest log-loss on rows of the pool that
were not drawn, over seeds that are not used again. Test rows are scored at the end and choose nothing. Told is the test log-loss after
a temperature (of the other half of the rows), with the plain log-loss and the accuracy, and the difference to the reference with a
95 % interval over rows and seeds. From 0.01 nats or half a point on a difference counts.

Stage 1 has the first four seeds; stage 2 has eight more, for the reference and the sides that can still be better by so much.
``seeds`` of a question says others. What is there is not trained again: units are shared by all questions and workers of one OUT, and
each is written when it is done.
Writes OUT/QUESTION.json, OUT/QUESTION.md and OUT/QUESTION.png.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WAIT = 5.0  # seconds
STAGES = {1: range(4), 2: range(12)}
TUNING_SEEDS = (1000,)


@dataclass(frozen=True)
class Question:
    """What is compared, and where its units are; best: side and task -> its rate, where that is chosen."""

    name: str
    given: dict[str, Any]
    out: Path
    text: Path
    stage: int
    best: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, out: Path, text: Path, stage: int) -> Question:
        """The question in a file."""
        return cls(path.stem, yaml.safe_load(path.read_text(encoding="utf-8")), out, text, stage)

    @property
    def tasks(self) -> list[str]:
        """Their names, with numbers of training rows."""
        return list(self.given["tasks"])

    @cached_property
    def sides(self) -> dict[str, dict[str, Any]]:
        """Name -> the keys of its recipe but for its rates."""
        base = self.given.get("base", {})
        return {
            name: base | {key: value for key, value in (own or {}).items() if key not in ("rates", "training.lr")}
            for name, own in self.given["sides"].items()
        }

    @property
    def reference(self) -> str:
        """The side that the others are compared to: the first where nothing is said."""
        return str(self.given.get("reference", next(iter(self.sides))))

    @property
    def seeds(self) -> list[int]:
        """Those of the stage, or the question's own."""
        return list(self.given.get("seeds", STAGES[self.stage]))

    def rates(self, side: str) -> list[str]:
        """What is tried for a side, as text."""
        own = self.given["sides"][side] or {}
        found = [own["training.lr"]] if "training.lr" in own else own.get("rates", self.given.get("rates", ["usual"]))
        return [rate if isinstance(rate, str) else f"{rate:g}" for rate in found]

    def unit(self, side: str, task: str, rate: str, seed: int, scored: str = "test") -> Any:
        """One training."""
        from evidence_unit import Unit

        of_test = {name: int(self.given.get(name, 0)) for name in ("curve", "test_rows")} if scored == "test" else {}
        return Unit.of(self.sides[side], task, rate, seed, scored, **of_test)

    def tuning(self, side: str, task: str) -> list[Any]:
        """The trainings that a side's rate is chosen by; none where there is one rate, or every one is scored."""
        rates = self.rates(side)
        if len(rates) == 1 or self.given.get("every_rate"):
            return []
        seeds = self.given.get("tuning_seeds", TUNING_SEEDS)
        return [self.unit(side, task, rate, seed, "held") for rate in rates for seed in seeds]

    def chosen(self, side: str, task: str) -> list[str]:
        """The rates that are scored on test rows: all, or the best on held-out rows; none while that is not known."""
        tuning = self.tuning(side, task)
        if not tuning:
            return self.rates(side)
        if (side, task) not in self.best and all(unit.file(self.out).exists() for unit in tuning):
            losses = self.held_losses(side, task)
            self.best[side, task] = [min(losses, key=lambda rate: losses[rate])]
        return self.best.get((side, task), [])

    def held_losses(self, side: str, task: str) -> dict[str, float]:
        """Rate -> mean tempered log-loss on held-out rows."""
        from evidence_stats import tempered_losses
        from evidence_unit import Outcome

        found: dict[str, list[float]] = {}
        for unit in self.tuning(side, task):
            outcome = Outcome.read(unit.file(self.out))
            found.setdefault(unit.rate, []).append(float(tempered_losses(outcome.logits, outcome.labels).mean()))
        return {rate: float(np.mean(values)) for rate, values in found.items()}

    def units(self) -> Iterator[Any]:
        """All that is to be trained, as far as it is known: the first seed of everything first, so that a table is there early."""
        cells = [(side, task) for task in self.tasks for side in self.sides]
        for side, task in cells:
            yield from self.tuning(side, task)
        for seed in self.seeds:
            if seed == STAGES[1].stop and "seeds" not in self.given and not self.waiting:
                cells = [cell for cell in cells if cell[0] in self.alive]
            for side, task in cells:
                yield from (self.unit(side, task, rate, seed) for rate in self.chosen(side, task))

    @property
    def waiting(self) -> bool:
        """Whether a rate is not chosen yet, or the first stage is not done."""
        cells = [(side, task) for task in self.tasks for side in self.sides]
        if not all(self.chosen(*cell) for cell in cells):
            return True
        first = [self.unit(*cell, rate, seed) for cell in cells for rate in self.chosen(*cell) for seed in STAGES[1]]
        return self.stage > 1 and not all(unit.file(self.out).exists() for unit in first)

    @cached_property
    def alive(self) -> set[str]:
        """The reference and the sides that can still be better after the first stage; asked for once that is done."""
        from evidence_report import alive, cells_of, differences

        first = replace(self, stage=1)
        gaps = differences(first, cells_of(first))
        return {self.reference, *(side for side, of in gaps.items() if alive(of))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True, help="the folder of subj, mpqa, cr and trec")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", type=int, choices=STAGES, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that train at the same time; 0 only reports")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no training after so long")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    for path in options.questions:
        question = Question.read(path, options.out.resolve(), options.text.resolve(), options.stage)
        if options.workers == 1:
            work(question, until)
        elif options.workers:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.workers)))
            context = multiprocessing.get_context("spawn")
            workers = [context.Process(target=work, args=(question, until)) for _ in range(options.workers)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        from evidence_report import report

        print(report(question))


def work(question: Question, until: float) -> None:
    """Train what is missing, one unit after the other, beside others that do the same, until nothing is left or it is late."""
    from evidence_unit import run

    from lorakit.artifacts.lock import claimed
    from lorakit.errors import Interrupted, LorakitError

    logging.disable(logging.INFO)
    failed: set[Path] = set()
    while time.monotonic() < until:
        missing = [unit for unit in question.units() if unit.file(question.out) not in failed]
        missing = [unit for unit in missing if not unit.file(question.out).exists()]
        if not missing and not question.waiting:
            return
        for unit in missing:
            file = unit.file(question.out)
            with claimed(file.with_suffix(".lock")) as lock:
                if not lock.mine or file.exists():
                    continue
                started = time.perf_counter()
                try:
                    run(unit, question.text).write(file)
                except Interrupted:  # by Ctrl-C or SIGTERM: this training is lost, what was finished is kept
                    return
                except LorakitError as error:
                    failed.add(file)
                    print(f"{unit.task} {unit.rate} {unit.seed} {unit.side}: {error}", flush=True)
                    continue
                print(f"{time.perf_counter() - started:5.0f} s  {file.relative_to(question.out)}", flush=True)
            break
        else:
            if failed.issuperset(unit.file(question.out) for unit in missing):
                return
            time.sleep(WAIT)  # others train what is left


if __name__ == "__main__":
    main()
