"""Experiment trackers get the numbers of metrics.jsonl."""

from pathlib import Path

import pytest
from support.runs import Bench, StopAt

from lorakit.artifacts.files import read_jsonl
from lorakit.errors import Interrupted

pytest.importorskip("tensorboard")


def scalars(run: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    table: dict[str, dict[int, float]] = {}
    for folder in {path.parent for path in run.rglob("events.out.tfevents.*")}:
        events = EventAccumulator(str(folder))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            table.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return table


def test_tensorboard(bench: Bench, tmp_path: Path):
    bench.train("run.trackers=[tensorboard]", run_dir=tmp_path / "run")
    table = scalars(tmp_path / "run")
    for record in read_jsonl(tmp_path / "run" / "metrics.jsonl"):
        numbers = record.get("scores") or {"loss": record["loss"], "lr": record["lr"]}
        for name, value in numbers.items():
            assert table[name][record["step"]] == pytest.approx(value, rel=1e-6)


def test_what_was_tracked_before_a_stop_is_on_disk(bench: Bench, tmp_path: Path):
    with pytest.raises(Interrupted):
        bench.train("run.trackers=[tensorboard]", run_dir=tmp_path / "run", hooks=[StopAt(4)])
    assert set(scalars(tmp_path / "run")["loss"]) == {2, 4}


def test_without_trackers_nothing_is_tracked(bench: Bench, tmp_path: Path):
    bench.train(run_dir=tmp_path / "run")
    assert scalars(tmp_path / "run") == {}
