"""What ``lorakit doctor`` says of a run's folder, whole and spoilt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.runs import Bench, StopAt, edited_json

import lorakit
from lorakit.artifacts.lock import Worker
from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, UsageError
from lorakit.workflow.doctor.environment import FAILED, OK, SKIPPED, WARNING, Check
from lorakit.workflow.doctor.run_folder import check_run


def found(run: Path) -> dict[str, Check]:
    return {row.check: row for row in check_run(run)}


def wrong(run: Path) -> dict[str, str]:
    """Check -> verdict, of those that are not ok."""
    return {name: row.verdict for name, row in found(run).items() if row.verdict != OK}


def test_a_finished_run_is_whole(finished: Any, searched: Any):
    assert wrong(finished.run_dir) == {}
    assert wrong(searched.run_dir) == {}
    rows = found(searched.run_dir)
    assert rows["state"].detail == f"finished, {searched.steps} steps"
    assert rows["parameters"].detail.startswith(f"{searched.adapter_parameters:,} on {searched.sites_on} sites")
    assert rows["timeline"].detail == f"{len(Run(searched.run_dir).timeline())} records"
    assert found(finished.run_dir)["timeline"].detail == "no search"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def set_json(path: Path, **values: Any) -> None:
    with edited_json(path) as record:
        record.update(values)


def swap_lines(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-4], *reversed(lines[-4:])]))


SPOILT: dict[str, tuple[Callable[[Path], Any], dict[str, str]]] = {
    "no recipe that reads": (
        lambda run: (run / "recipe.yaml").write_text("model: {nam: x}"),
        {"recipe": FAILED, "parameters": FAILED},
    ),
    "no task": (lambda run: (run / "task.json").write_text("{"), {"task": FAILED, "parameters": FAILED}),
    "no last adapter": (lambda run: shutil.rmtree(run / "adapter"), {"adapter": FAILED, "parameters": SKIPPED}),
    "no best adapter": (lambda run: shutil.rmtree(run / "best"), {"best adapter": FAILED}),
    "tensors cut": (
        lambda run: cut(run / "adapter" / "adapter_model.safetensors"),
        {"adapter": FAILED, "parameters": FAILED},
    ),
    "other parameters": (lambda run: set_json(run / "summary.json", adapter_parameters=7), {"parameters": FAILED}),
    "other scores": (lambda run: set_json(run / "summary.json", last={"accuracy": 7.0}), {"state": FAILED}),
    "other steps": (lambda run: set_json(run / "summary.json", steps=7), {"state": FAILED}),
    "a line cut": (lambda run: cut(run / "metrics.jsonl"), {"metrics": FAILED, "state": FAILED}),
    "lines in disorder": (lambda run: swap_lines(run / "metrics.jsonl"), {"metrics": FAILED}),
    "a checkpoint cut": (
        lambda run: cut(run / "checkpoints" / "step-12" / "optimizer.safetensors"),
        {"checkpoints": WARNING},
    ),
    "half a folder": (lambda run: (run / ".best.partial").mkdir(), {"leftovers": WARNING}),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_spoilt_is_found(copied: Path, name: str):
    spoil, expected = SPOILT[name]
    spoil(copied)
    assert wrong(copied) == expected


def test_an_imported_run_has_no_best_epoch(copied: Path):
    for folder in ("best", "checkpoints"):
        shutil.rmtree(copied / folder)
    (copied / "metrics.jsonl").unlink()
    summary = Run(copied).summary()
    kept = {name: summary[name] for name in ("task", "adapter_parameters", "head_parameters")}
    (copied / "summary.json").write_text(json.dumps(kept | {"imported": "there"}))
    assert wrong(copied) == {"best adapter": SKIPPED}
    assert found(copied)["state"].detail == "imported from there"


@pytest.mark.slow
def test_an_evolution_is_looked_at_part_by_part(bench: Bench, tmp_path: Path):
    glora = ("adapter.method=glora", "adapter.dropout=0", "search.method=glora")
    loaded = bench.load(*glora, "search.options={population: 4, parents: 2, generations: 2, holdout: 0.2}")
    lorakit.evolve(loaded, run_dir=tmp_path / "run")
    assert wrong(tmp_path / "run") == {"found: best adapter": SKIPPED}
    rows = found(tmp_path / "run")
    assert rows["generations"].detail == "2 generations, 8 configurations"
    assert (rows["supernet: state"].detail, rows["found: state"].detail) == (
        "finished, 10 steps",  # 36 rows in batches of 8, twice
        "put together, not trained",
    )
    lines = (tmp_path / "run" / "generations.jsonl").read_text().splitlines()
    (tmp_path / "run" / "generations.jsonl").write_text("\n".join(reversed(lines)))
    assert wrong(tmp_path / "run") == {"generations": FAILED, "found: best adapter": SKIPPED}


def test_a_head_that_was_not_saved(copied: Path):
    with edited_json(copied / "adapter" / "lorakit.json") as told:
        told["new_parts"].append("another.head")
    row = found(copied)["adapter"]
    assert (row.verdict, "the head is not saved: another.head" in row.detail) == (FAILED, True)


def test_a_tick_over_its_budget(searched: Any, tmp_path: Path):
    run = Path(shutil.copytree(searched.run_dir, tmp_path / "copied"))
    lines = (run / "timeline.jsonl").read_text().splitlines()
    tick = json.loads(lines[-1])
    (run / "timeline.jsonl").write_text("\n".join([*lines[:-1], json.dumps(tick | {"parameters": tick["budget"] + 1})]))
    row = found(run)["timeline"]
    assert (row.verdict, f"before step {tick['step']} is over its budget" in row.detail) == (FAILED, True)


def test_an_unfinished_run_is_told_how_to_go_on(bench: Bench, tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        bench.train(hooks=[StopAt(7)], run_dir=run)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 8, "lo')
    rows = found(run)
    assert {name: row.verdict for name, row in rows.items() if row.verdict != OK} == {
        "state": WARNING,
        "metrics": WARNING,
        "adapter": SKIPPED,
        "parameters": SKIPPED,
    }
    assert rows["state"].advice == f"lorakit train {run} --resume"
    shutil.rmtree(run / "checkpoints")
    rows = found(run)
    assert rows["checkpoints"].verdict == WARNING
    assert rows["state"].advice == rows["checkpoints"].advice == f"train anew: lorakit train {run}/recipe.yaml"


def test_who_holds_the_lock(copied: Path):
    lock, me = Run(copied).lock, asdict(Worker.this())
    lock.write_text(json.dumps(me))
    assert f"process {os.getpid()} on" in found(copied)["lock"].detail
    assert wrong(copied) == {"lock": WARNING}
    lock.write_text(json.dumps(me | {"born": "1"}))  # a process of the same number that started at another time
    assert wrong(copied) == {}


def test_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a run folder"):
        check_run(tmp_path)
