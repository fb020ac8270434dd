"""How runs are named and found, and what their records forget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.run import Run, claim, environment, new_run, newest_run, open_run, unfinished_run
from lorakit.errors import RunError, UsageError
from lorakit.tasks.task import tasks


def begin(folder: Path, name: str, *, task: str | None = None, age: int = 0) -> Run:
    """A run begun ``age`` seconds ago; finished where ``task`` is given."""
    run = Run(folder / name)
    run.start("model: {}\n", tasks.get(task or "mrpc"))
    if task:
        run.write_summary({"task": task})
    now = run.recipe.stat().st_mtime
    os.utime(run.recipe, (now - age, now - age))
    return run


def test_new_runs_never_share_a_folder(tmp_path: Path):
    names = []
    for _ in range(3):
        run = new_run(tmp_path, "mrpc", 1)
        names.append(run.path.name)
        run.path.mkdir()
    assert names == ["mrpc-1", "mrpc-1-2", "mrpc-1-3"]
    assert new_run(tmp_path, "mrpc", 10).path.name == "mrpc-10"


def test_a_claimed_folder_must_be_empty(tmp_path: Path):
    assert claim(tmp_path / "new").path == tmp_path / "new"
    assert claim(tmp_path).path == tmp_path
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="exists already") as caught:
            claim(taken)
        assert (caught.value.exit_code, caught.value.problems[0].where) == (2, str(taken))


def test_the_newest_unfinished_run_is_resumed(tmp_path: Path):
    begin(tmp_path, "mrpc-1", age=30)
    begin(tmp_path, "mrpc-1-2", age=20)
    begin(tmp_path, "mrpc-1-3", task="mrpc", age=10)
    assert unfinished_run(tmp_path, "mrpc", 1).path.name == "mrpc-1-2"


@pytest.mark.parametrize("other", ["mrpc-10", "mrpc-11-2", "mrpc-1-long", "big-mrpc-1", "mrpc-1-2b"])
def test_another_name_or_seed_is_not_resumed(tmp_path: Path, other: str):
    begin(tmp_path, other)
    with pytest.raises(UsageError, match="no unfinished run of mrpc with seed 1"):
        unfinished_run(tmp_path, "mrpc", 1)
    begin(tmp_path, "mrpc-1", age=60)
    assert unfinished_run(tmp_path, "mrpc", 1).path.name == "mrpc-1"


def test_a_name_with_special_characters_is_taken_literally(tmp_path: Path):
    begin(tmp_path, "a+b-1")
    assert unfinished_run(tmp_path, "a+b", 1).path.name == "a+b-1"
    begin(tmp_path, "xyz-1")
    with pytest.raises(UsageError):
        unfinished_run(tmp_path, "...", 1)


def test_the_newest_finished_run(tmp_path: Path):
    begin(tmp_path, "old", task="mrpc", age=30)
    begin(tmp_path, "sst2", task="sst2", age=20)
    begin(tmp_path, "unfinished")
    assert newest_run(tmp_path, "mrpc").path.name == "old"
    assert newest_run(tmp_path, None).path.name == "sst2"
    (tmp_path / "old" / "merged").mkdir()  # work on an old run does not make it a new one
    assert newest_run(tmp_path, None).path.name == "sst2"
    with pytest.raises(UsageError, match="no finished run of rte") as caught:
        newest_run(tmp_path, "rte")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="no finished run"):
        newest_run(tmp_path / "nowhere", None)


def test_only_a_run_can_be_opened(tmp_path: Path):
    with pytest.raises(UsageError, match="is not a run folder"):
        open_run(tmp_path)
    assert open_run(begin(tmp_path, "run").path).finished is False


def test_rewinding_keeps_what_led_to_the_step(tmp_path: Path):
    """Lines of steps done, and ticks before them: the tick at the step itself will be made again."""
    run = begin(tmp_path, "run")
    for step in (0, 5, 10, 15):
        run.append("metrics", {"step": step})
        run.append("timeline", {"step": step})
    run.rewind(10)
    assert [record["step"] for record in run.metrics()] == [0, 5, 10]
    assert [record["step"] for record in run.timeline()] == [0, 5]
    run.append("metrics", {"step": 11})
    assert [record["step"] for record in run.metrics()] == [0, 5, 10, 11]


def test_rewinding_mends_a_line_cut_short(tmp_path: Path):
    run = begin(tmp_path, "run")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    run.rewind(5)
    run.append("metrics", {"step": 2})
    assert [record["step"] for record in run.metrics()] == [1, 2]
    assert not (run.path / "timeline.jsonl").exists()


def test_a_run_is_finished_when_it_has_a_summary(tmp_path: Path):
    run = begin(tmp_path, "run")
    with pytest.raises(RunError, match=r"summary\.json is missing"):
        run.summary()
    run.write_summary({"task": "mrpc"})
    assert run.finished
    assert run.summary() == {"task": "mrpc"}


def test_a_run_tells_its_surroundings(tmp_path: Path):
    import torch

    told = read_json(begin(tmp_path, "run").path / "environment.json")
    assert told["packages"]["torch"] == torch.__version__
    assert set(told) == set(environment())
    write_json(tmp_path / "again.json", told)


def test_the_task_comes_back_from_its_file(tmp_path: Path):
    assert begin(tmp_path, "mnli-0", task="mnli").task() == tasks.get("mnli")


def test_weights_of_another_name_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no weights called bets") as raised:
        Run(tmp_path).weights("bets")
    assert "last or best" in str(raised.value)
