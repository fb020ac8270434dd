"""Which folder a training writes into, and when a run may go on."""

from pathlib import Path

import pytest
from support.runs import Bench, StopAt

from lorakit.artifacts.run import Run
from lorakit.errors import Interrupted, UsageError
from lorakit.workflow.experiments.arms import Entry
from lorakit.workflow.resume import choose_run


def test_runs_are_named_after_recipe_and_seed(bench: Bench):
    names = [bench.train("run.seed=3", "training.max_steps=1", name="named").run_dir.name for _ in range(2)]
    assert names == ["named-3", "named-3-2"]
    assert bench.train("run.name=mine", "training.max_steps=1", name="named").run_dir.name == "mine-0"


def test_a_named_folder_must_be_free(bench: Bench, copied: Path):
    with pytest.raises(UsageError, match="exists already"):
        bench.train(run_dir=copied)


def test_resume_finds_the_newest_unfinished_run(bench: Bench, tmp_path: Path):
    runs = f"run.folder={tmp_path}/runs"
    with pytest.raises(UsageError, match="no unfinished run of small with seed 0"):
        bench.train(runs, resume=True)
    for seed in (0, 0, 1):
        with pytest.raises(Interrupted):
            bench.train(runs, f"run.seed={seed}", hooks=[StopAt(2)])
    assert bench.train(runs, resume=True).run_dir.name == "small-0-2"
    assert bench.train(runs, resume=True).run_dir.name == "small-0"
    with pytest.raises(UsageError, match="no unfinished run"):
        bench.train(runs, resume=True)
    assert bench.train(runs, "run.seed=1", resume=True).run_dir.name == "small-1"


def test_a_folder_without_a_run_is_not_resumed(bench: Bench, tmp_path: Path):
    with pytest.raises(UsageError, match="is not a run folder"):
        bench.train(run_dir=tmp_path, resume=True)


def test_a_folder_in_which_a_training_was_killed_at_its_start_is_free(bench: Bench, tmp_path: Path):
    loaded, run = bench.load(), Run(tmp_path / "small")
    run.path.mkdir()
    (run.path / "data.json").touch()
    Entry(0, run, loaded).check_same_recipe()
    assert choose_run(loaded, run.path, resume=False) == run
    assert not run.path.exists()
