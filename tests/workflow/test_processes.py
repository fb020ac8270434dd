"""Two processes are one: same choices, same scores, weights equal to rounding; and they stop and go on together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.processes import assert_same_run, launch
from support.runs import SEARCH, Bench, records

from lorakit.errors import UsageError

pytestmark = pytest.mark.slow

# An odd number of validation rows, and a last batch of one row, so that one process has none; dropout's masks would differ.
STILL = ("adapter.dropout=0", "training.lr=1e-3", "task.max_train_rows=43", "task.max_eval_rows=29")
STILL = (*STILL, "training.batch_size=6", "training.accumulate=2", "evaluation.batch_size=4", "search.every=0.5")
UNITS = ("adapter.targets=[q,v,up]", "search.enable=0.5")
EARLY = ("training.early_stopping={patience: 1, min_delta: 1}", "evaluation.every_steps=3")
WAYS = {
    "lora": ("search.method=none",),
    "separate": (*SEARCH, "search.enable=0.5"),
    "streaming": (*SEARCH, "search.enable=0.5", "search.scoring=streaming"),
    "recomputed": (*SEARCH, "search.enable=0.5", "search.scoring=streaming", "training.gradient_checkpointing=true"),
    "adalora": (*UNITS, "search.method=adalora", "adapter.method=adalora"),
    "dylora": (*UNITS, "search.method=dylora"),
    "found": (*SEARCH, "search.enable=0.5", "training.lr=auto"),
    "read out": ("model.readout=auto", "model.head_start=fitted"),
    "squeeze": (*UNITS, "search.method=squeeze"),
    "quantised": ("search.method=none", "model.quantization=nf4"),
    "weighted": ("training.class_weights={happy: 3}", "training.micro_tokens=20", *EARLY),
}
STOPPED = {
    "plain": ("adapter.dropout=0.2", "evaluation.every_steps=4", "run.log_every=3"),
    "search": (*SEARCH, "adapter.dropout=0.2", "search.scoring=streaming", "search.every=0.5", "training.accumulate=2"),
}


@pytest.fixture(scope="module")
def pairs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Way -> its run in one process and in two."""
    folder = tmp_path_factory.mktemp("processes")
    backbone = bench.backbone(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    recipe, jobs, runs = str(bench.load().path), [], {}
    for way, overrides in WAYS.items():
        settings = [*STILL, *overrides, f"model.name={backbone}"]
        jobs.append({"recipe": recipe, "overrides": settings, "run": str(folder / way), "stops": []})
        runs[way] = bench.train(*settings).run_dir, folder / way
    assert not launch(folder, jobs)
    return runs


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_are_one(pairs: dict[str, tuple[Path, Path]], way: str):
    alone, two = pairs[way]
    ticks = assert_same_run(alone, two)
    assert bool(ticks) == (way not in ("lora", "read out", "quantised", "weighted"))


@pytest.fixture(scope="module")
def together(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that two processes trained: as STOPPED has them, whole and stopped, and one of an epoch."""
    folder, jobs = tmp_path_factory.mktemp("together"), [short(bench)]
    for way, overrides in STOPPED.items():
        for name, stops in (("whole", []), ("stopped", [2, 5])):
            jobs.append(jobs[0] | {"overrides": overrides, "run": f"{way}-{name}", "stops": stops})
    assert not launch(folder, [job | {"run": str(folder / job["run"])} for job in jobs])
    return folder


def short(bench: Bench) -> dict[str, Any]:
    """A training of one epoch."""
    overrides = [*STOPPED["plain"], "training.epochs=1"]
    return {"recipe": str(bench.load().path), "overrides": overrides, "run": "short", "stops": []}


def test_two_processes_stop_and_go_on_together(bench: Bench, together: Path):
    """Bit-identical, dropout included, although the one who stops them tells one of them; another number of processes is refused."""
    for way in STOPPED:
        assert records(together / f"{way}-stopped") == records(together / f"{way}-whole")
    (together / "plain-stopped" / "summary.json").unlink()
    with pytest.raises(UsageError, match="begun with 2 processes, and this is 1") as caught:
        bench.train(*STOPPED["plain"], run_dir=together / "plain-stopped", resume=True)
    assert "--num_processes 2" in caught.value.problems[0].hint


def test_two_machines_are_two_processes(bench: Bench, together: Path, tmp_path: Path):
    assert not launch(tmp_path, [short(bench) | {"run": str(tmp_path / "two")}], machines=2)
    assert records(together / "short") == records(tmp_path / "two")
