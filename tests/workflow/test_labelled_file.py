"""``evaluate(file=...)``: any labelled file by the run's columns and labels; and runs of own data by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.runs import VALIDATION_ROWS, Bench, make_rows, write_rows

import lorakit
from lorakit.errors import DataError, UsageError
from lorakit.workflow.train import TrainResult


def test_the_validation_file_scores_what_the_split_does(finished: TrainResult, bench: Bench):
    found = lorakit.evaluate(finished.run_dir, file=bench.data() / "validation.csv")
    assert found.scores == finished.last
    assert (found.rows, found.task, found.name) == (VALIDATION_ROWS, "custom", "train")
    assert found.diagnosis == lorakit.evaluate(finished.run_dir).diagnosis
    assert found.diagnosis is not None
    assert sum(map(sum, found.diagnosis.confusion)) == VALIDATION_ROWS


def test_labels_are_matched_by_name_whatever_their_order(finished: TrainResult, tmp_path: Path):
    """A file of one class alone, the second one: by its own order it would be class 0."""
    rows = [row for row in make_rows(60, seed=7) if row["label"] == "plain"]
    write_rows(tmp_path / "plain.csv", rows)
    found = lorakit.evaluate(finished.run_dir, file=tmp_path / "plain.csv")
    assert found.diagnosis is not None
    assert [row.support for row in found.diagnosis.classes] == [0, len(rows)]


def test_an_unknown_label_is_refused_with_its_row(finished: TrainResult, tmp_path: Path):
    rows = make_rows(4, seed=7)
    write_rows(tmp_path / "odd.csv", [*rows, {**rows[0], "label": "sad"}])
    with pytest.raises(DataError, match=r"label 'sad' is not one of the 2 labels \(line 6\)"):
        lorakit.evaluate(finished.run_dir, file=tmp_path / "odd.csv")
    write_rows(tmp_path / "ids.csv", [{**row, "label": 0} for row in rows])
    with pytest.raises(DataError, match="label '0' is not one"):
        lorakit.evaluate(finished.run_dir, file=tmp_path / "ids.csv")


def test_a_task_of_the_catalogue_takes_ids_as_its_own_files_do(bench: Bench):
    run = bench.train("training.max_steps=2", kind="sst2", name="sst2-file")
    assert lorakit.evaluate(run.run_dir, file=bench.data() / "SST-2" / "dev.tsv").scores == run.last


def test_slices_by_a_column(finished: TrainResult, tmp_path: Path):
    rows = [{**row, "source": "web" if place % 3 else ""} for place, row in enumerate(make_rows(30, seed=7))]
    write_rows(tmp_path / "all.csv", rows)
    found = lorakit.evaluate(finished.run_dir, file=tmp_path / "all.csv", by="source")
    assert [(part.name, part.rows) for part in found.slices] == [("web", 20), ("(none)", 10)]
    write_rows(tmp_path / "web.csv", [row for row in rows if row["source"]])
    assert found.slices[0].scores == lorakit.evaluate(finished.run_dir, file=tmp_path / "web.csv").scores
    with pytest.raises(DataError, match="has no column 'sauce'"):
        lorakit.evaluate(finished.run_dir, file=tmp_path / "all.csv", by="sauce")


def test_the_file_is_all_the_data_that_is_needed(bench: Bench, finished: TrainResult, tmp_path: Path):
    shutil.copy(bench.data() / "train.csv", tmp_path / "gone.csv")
    run = bench.train("training.max_steps=2", f"task.train={tmp_path}/gone.csv")
    (tmp_path / "gone.csv").unlink()
    assert lorakit.evaluate(run.run_dir, file=bench.data() / "validation.csv").scores == run.last


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": "x"}, "--by slices the rows of a file"), ({"file": "x.csv", "split": "test"}, "exclude each other")],
)
def test_what_does_not_go_together(finished: TrainResult, options: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        lorakit.evaluate(finished.run_dir, **options)


@pytest.fixture
def two_sets(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[TrainResult]:
    """Runs of apples.csv and pears.csv, in that order, in the working folder's runs."""
    made = []
    for name in ("apples", "pears"):
        shutil.copy(bench.data() / "train.csv", tmp_path / f"{name}.csv")
        settings = (f"task.train={tmp_path}/{name}.csv", f"run.folder={tmp_path}/runs", f"run.name={name}")
        made.append(bench.train("training.max_steps=1", *settings))
    monkeypatch.chdir(tmp_path)
    return made


def test_own_data_goes_by_its_name(two_sets: list[TrainResult]):
    for run in two_sets:
        found = lorakit.evaluate(task=run.name)
        assert (run.task, found.source) == ("custom", f"runs/{run.name}-0 (last weights)")
    with pytest.raises(UsageError, match="several data sets of your own: apples, pears"):
        lorakit.evaluate(task="custom")
    with pytest.raises(UsageError, match="no task called 'peras'") as caught:
        lorakit.evaluate(task="peras")
    assert "pears" in str(caught.value)
    with pytest.raises(UsageError, match="this run learnt"):
        lorakit.evaluate(two_sets[0].run_dir, task="mrpc")


def test_custom_is_enough_where_all_runs_are_of_one_set(two_sets: list[TrainResult]):
    shutil.rmtree(two_sets[0].run_dir)
    assert lorakit.evaluate(task="custom").name == "pears"


def test_a_run_from_before_there_were_names(two_sets: list[TrainResult]):
    """Its task.json says nothing but where the data was."""
    from support.runs import edited_json

    with edited_json(two_sets[0].run_dir / "task.json") as task:
        del task["called"]
    assert lorakit.evaluate(task="apples").source.startswith("runs/apples-0")
