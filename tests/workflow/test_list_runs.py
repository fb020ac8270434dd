"""What lies in a folder of runs: finished, stopped, running, broken and deeper ones; and a stopped one is offered to who trains again."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from support.runs import Bench, StopAt, edited_json

import lorakit
from lorakit.artifacts.lock import claimed
from lorakit.artifacts.run import Run
from lorakit.cli.app import main
from lorakit.errors import Interrupted, UsageError
from lorakit.workflow.train import TrainResult
from lorakit.workflow.unfinished import find_resumable

STEPS = 12  # 45 rows in batches of 8, twice


@pytest.fixture(scope="module")
def runs(bench: Bench, tmp_path_factory: pytest.TempPathFactory, finished: TrainResult) -> Path:
    """A finished run, one stopped after 3 steps, one whose task cannot be read, and a run of a sweep. Not to be written into."""
    folder = tmp_path_factory.mktemp("listed") / "runs"
    shutil.copytree(finished.run_dir, folder / "small-1")
    with pytest.raises(Interrupted):
        bench.train("training.lr=1e-3", run_dir=folder / "small-0", hooks=[StopAt(3)])
    shutil.copytree(folder / "small-1", folder / "broken-0")
    (folder / "broken-0" / "task.json").write_text("{")
    shutil.copytree(folder / "small-1", folder / "sweep-small" / "small-0")
    for place, name in enumerate(("small-1", "small-0", "broken-0")):
        os.utime(folder / name / "recipe.yaml", (1_700_000_000 + place,) * 2)
    return folder


def test_every_run_is_told_and_a_broken_one_stops_no_other(runs: Path, finished: TrainResult):
    listed = lorakit.list_runs(runs)
    whole, stopped, broken = listed.runs
    assert [run.run.name for run in listed.runs] == ["small-1", "small-0", "broken-0"]
    assert (whole.state, whole.score, whole.metric) == ("finished", finished.last["accuracy"], "accuracy")
    assert (whole.task, whole.method, whole.seed, whole.step) == ("train", "lora", 0, None)
    assert (stopped.state, stopped.step, stopped.steps, stopped.score) == ("interrupted", 3, STEPS, None)
    assert (broken.state, broken.score) == ("broken", None)
    assert "task.json" in broken.problem
    assert listed.further == {str(runs / "sweep-small"): 1}


def test_a_run_in_a_living_process_is_running(runs: Path, tmp_path: Path):
    run = Run(Path(shutil.copytree(runs / "small-0", tmp_path / "small-0")))
    with claimed(run.lock):
        assert [each.state for each in lorakit.list_runs(tmp_path).runs] == ["running"]
    with claimed(run.lock), edited_json(run.lock) as worker:
        worker |= {"pid": 2**22 + 1, "host": socket.gethostname()}  # a number that no process has
    assert [each.state for each in lorakit.list_runs(tmp_path).runs] == ["interrupted"]


def test_the_command_prints_the_table_and_how_the_stopped_one_goes_on(runs: Path, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert main(["list", "runs"]) == 0
    out, err = capsys.readouterr()
    title, *rows = out.splitlines()
    header = next(line for line in rows if line.startswith(" run "))
    assert title.strip() == "3 runs in runs, newest last"
    assert header.split() == ["run", "task", "model", "method", "score", "seed", "begun", "state"]
    assert [line.split()[0] for line in rows if line.startswith(" runs/")] == [
        "runs/small-1",
        "runs/small-0",
        "runs/broken-0",
    ]
    assert "interrupted, resumable at step 3 of 12" in out
    assert "lorakit train runs/small-0 --resume" in err
    assert "warning: broken: runs/broken-0/task.json" in err
    assert "1 more run in runs/sweep-small: lorakit list runs --folder runs/sweep-small" in err
    assert main(["list", "runs", "--json"]) == 0
    assert [run["state"] for run in json.loads(capsys.readouterr().out)["runs"]] == [
        "finished",
        "interrupted",
        "broken",
    ]


def test_no_runs_are_no_error_and_a_wrong_folder_is(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["list", "runs"]) == 0
    assert capsys.readouterr().err == "no runs in runs: lorakit train demo makes one\n"
    with pytest.raises(UsageError, match="no such folder"):
        lorakit.list_runs("rnus")
    assert main(["list", "tasks", "--folder", "runs"]) == 2


def test_a_stopped_run_is_offered_to_who_trains_the_same_again(bench: Bench, runs: Path):
    same, place = ("training.lr=1e-3",), f"run.folder={runs}"
    found = find_resumable(bench.load(*same, place))
    assert found is not None
    assert (found.run.path.name, found.step, found.steps) == ("small-0", 3, STEPS)
    assert str(found).endswith(f"lorakit train {runs / 'small-0'} --resume goes on with it")
    assert find_resumable(bench.load(place)) is None  # another learning rate
    assert find_resumable(bench.load(*same, place, "run.seed=1")) is None
    with pytest.raises(
        UsageError, match=r"^.*3 of its 12 steps are kept: lorakit train .*small-0 --resume goes on"
    ) as refused:
        lorakit.train(bench.load(*same), run_dir=runs / "small-0")
    assert "another --run-dir" in str(refused.value)
    with pytest.raises(UsageError, match="exists already"):
        lorakit.train(bench.load(), run_dir=runs / "small-0")


def test_the_first_line_of_a_training_names_the_stopped_run(bench: Bench, runs: Path, monkeypatch, capsys):
    loaded = bench.load("training.lr=1e-3", f"run.folder={runs}")
    monkeypatch.setattr("lorakit.cli.train.open_recipe", lambda *arguments, **settings: loaded)
    monkeypatch.setattr(
        lorakit, "train", lambda *arguments, **settings: (_ for _ in ()).throw(Interrupted("enough")), raising=False
    )
    main(["train", "small.yaml"])
    first = capsys.readouterr().err.splitlines()[0]
    assert main(["train", "small.yaml", "--run-dir", f"{runs}/small-0"]) == 2
    refused = capsys.readouterr().err.splitlines()[0]
    assert refused.startswith("error: ")
    assert first.startswith(refused.removeprefix("error: "))
    assert first == (
        f"{runs}/small-0 was stopped, and 3 of its 12 steps are kept: lorakit train {runs}/small-0 --resume goes on with it; "
        "this trains anew"
    )
