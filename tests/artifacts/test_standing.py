"""What became of a run, told from its folder alone."""

import json

import pytest

from lorakit.artifacts.lock import claimed
from lorakit.artifacts.run import Run
from lorakit.artifacts.standing import GENERATIONS, Standing, all_checkpoints, killed_at_its_start, standing


def checkpoint(run, step, content=None):
    folder = run.checkpoints / f"step-{step}"
    folder.mkdir(parents=True)
    record = {"train": {"step": step, "total_steps": 1200}} if content is None else content
    (folder / "state.json").write_text(json.dumps(record))


@pytest.fixture
def run(tmp_path):
    found = Run(tmp_path / "small-0")
    found.path.mkdir()
    (found.path / "metrics.jsonl").touch()
    return found


def test_the_newest_checkpoint_that_can_be_read_counts(run):
    assert str(standing(run)) == "interrupted, without a checkpoint"
    for step in (20, 100, 1000):
        checkpoint(run, step)
    checkpoint(run, 1100, {"train": {"step": "many"}})
    assert [path.name for path in all_checkpoints(run.checkpoints)] == ["step-20", "step-100", "step-1000", "step-1100"]
    assert standing(run) == Standing("interrupted", 1000, 1200)
    assert str(standing(run)) == "interrupted, resumable at step 1,000 of 1,200"


def test_what_is_no_interrupted_training(run):
    checkpoint(run, 20)
    (run.path / GENERATIONS).touch()
    assert standing(run).state == "search"
    (run.path / "summary.json").touch()
    assert standing(run).state == "finished"


def test_an_adapter_that_was_never_trained(run):
    (run.path / "metrics.jsonl").unlink()
    run.weights("last").mkdir()
    assert standing(run).state == "untrained"


def test_what_is_written_before_the_recipe_is_no_run_yet(tmp_path):
    begun = Run(tmp_path / "small-0")
    assert not killed_at_its_start(begun)
    begun.path.mkdir()
    assert not killed_at_its_start(begun)
    for name in ("data.json", "proof_rows.jsonl", ".recipe.yaml.12.partial"):
        (begun.path / name).touch()
        assert killed_at_its_start(begun)
    with claimed(begun.lock, patient=True):
        assert not killed_at_its_start(begun)
    (begun.path / "notes.txt").touch()
    assert not killed_at_its_start(begun)
