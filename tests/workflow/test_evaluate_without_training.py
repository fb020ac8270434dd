"""Evaluation needs the rows that it scores and no others; and a run can be scored on another task with the same labels."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score
from support.runs import Bench, make_rows, write_rows

import lorakit
from lorakit.errors import DataError, UsageError
from lorakit.workflow.train import TrainResult


@pytest.fixture(scope="module")
def data(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bench's files, from which tests take some away for a while."""
    return Path(shutil.copytree(bench.data(), tmp_path_factory.mktemp("kept") / "data"))


@pytest.fixture(scope="module")
def own(bench: Bench, data: Path) -> TrainResult:
    """A run of own data with a validation file; its labels in an order that is not that of the letters."""
    files = (
        f"task.train={data}/train.csv",
        f"task.validation={data}/validation.csv",
        f"task.test={data}/validation.csv",
    )
    return bench.train(*files, "task.labels=[plain,happy]", "training.lr=0.02", "training.max_steps=6", name="own")


@pytest.fixture(scope="module")
def glue(bench: Bench, data: Path) -> TrainResult:
    """A run of a GLUE task from a folder."""
    return bench.train(f"task.data={data}", "training.lr=0.02", "training.max_steps=6", kind="sst2", name="glue")


@pytest.fixture
def without_training(data: Path, monkeypatch: pytest.MonkeyPatch):
    """The training files are gone until the test has ended."""
    hidden = [(path, path.with_suffix(".hidden")) for path in (data / "train.csv", data / "SST-2" / "train.tsv")]
    for path, away in hidden:
        path.rename(away)
    yield
    for path, away in hidden:
        away.rename(path)


def test_a_glue_folder_with_validation_alone_is_enough(glue: TrainResult, without_training):
    assert lorakit.evaluate(glue.run_dir).scores == glue.last
    with pytest.raises(DataError, match="no train split"):
        lorakit.evaluate(glue.run_dir, split="train")


def test_own_data_without_its_training_file(own: TrainResult, without_training):
    assert lorakit.evaluate(own.run_dir).scores == own.last
    assert lorakit.evaluate(own.run_dir, split="test").scores == own.last
    with pytest.raises(DataError, match=r"no file .*train\.csv"):
        lorakit.evaluate(own.run_dir, split="train")


def test_rows_that_are_not_the_run_s_any_more_are_still_refused(own: TrainResult, data: Path, without_training):
    path = data / "validation.csv"
    text = path.read_text()
    path.write_text(text.replace("happy", "plain", 1))
    with pytest.raises(DataError, match="has changed since the run"):
        lorakit.evaluate(own.run_dir)
    path.write_text(text)


def test_rows_held_out_of_a_training_file_that_is_gone(bench: Bench, tmp_path: Path):
    shutil.copy(bench.data() / "train.csv", tmp_path / "reviews.csv")
    files = (f"task.train={tmp_path}/reviews.csv", "task.validation=null", "task.test=null")
    run = bench.train(*files, "training.max_steps=1", name="held")
    (tmp_path / "reviews.csv").unlink()
    with pytest.raises(DataError, match=r"reviews\.csv any more, and the validation rows were a part of it") as refused:
        lorakit.evaluate(run.run_dir)
    assert "--file FILE" in str(refused.value)


def test_labels_that_are_numbers_are_matched_by_name_alone(bench: Bench, tmp_path: Path):
    """1 and 2 are names here: a 0 in the validation file is no id."""
    for name, number in (("train", 12), ("validation", 6)):
        rows = [
            {"sentence": row["sentence"], "label": 1 + place % 2}
            for place, row in enumerate(make_rows(number, seed=number))
        ]
        write_rows(tmp_path / f"{name}.csv", rows)
    files = (f"task.train={tmp_path}/train.csv", f"task.validation={tmp_path}/validation.csv", "task.test=null")
    run = bench.train(*files, "training.max_steps=1", name="numbers")
    (tmp_path / "train.csv").unlink()
    assert lorakit.evaluate(run.run_dir).scores == run.last
    text = (tmp_path / "validation.csv").read_text()
    (tmp_path / "validation.csv").write_text(text.replace(",2\n", ",0\n").replace(",2\r\n", ",0\r\n"))
    with pytest.raises(DataError, match="label '0' is not one of the 2 labels"):
        lorakit.evaluate(run.run_dir)


def test_another_task_with_the_same_labels_in_another_order(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A run of (positive, negative) on SST-2's (negative, positive): its accuracy from its own predictions of the same texts."""
    names = {"happy": "positive", "plain": "negative"}
    rows = [row | {"label": names[row["label"]]} for row in make_rows(40, seed=3)]
    write_rows(tmp_path / "films.csv", rows)
    files = (f"task.train={tmp_path}/films.csv", f"task.validation={tmp_path}/films.csv", "task.test=null")
    run = bench.train(
        *files, "task.labels=[positive,negative]", "training.lr=0.02", "training.max_steps=6", name="films"
    )
    texts = [row["sentence"] for row in rows[:2]] + [row["sentence"] for row in make_rows(20, seed=4)]
    labels = [int(place % 3 == 0) for place in range(len(texts))]  # not as many of one as of the other
    (tmp_path / "sst2").mkdir()
    table = pa.table({"sentence": texts, "label": labels, "idx": list(range(len(texts)))})
    pq.write_table(table, tmp_path / "sst2" / "validation.parquet")
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(tmp_path))
    with caplog.at_level(logging.WARNING, "lorakit"):
        scored = lorakit.evaluate(run.run_dir, task="sst2", offline=True, predictions=tmp_path / "out.csv")
    guessed = [answer.label for answer in lorakit.predict(run.run_dir, texts)]
    truth = ["negative" if label == 0 else "positive" for label in labels]
    assert scored.scores["accuracy"] == pytest.approx(accuracy_score(truth, guessed))
    with (tmp_path / "out.csv").open() as stream:
        assert [row["prediction"] for row in csv.DictReader(stream)] == guessed
    assert (scored.task, scored.learnt, scored.rows) == ("sst2", "films", 22)
    assert "learnt films, and not sst2" in caplog.text
    assert "2 of the 22 texts of validation are among its training texts" in caplog.text


def test_another_task_with_other_labels_is_refused_with_both(own: TrainResult, glue: TrainResult):
    with pytest.raises(UsageError, match="train: plain, happy; of sst2: negative, positive"):
        lorakit.evaluate(own.run_dir, task="sst2")
    with pytest.raises(UsageError, match="pairs of texts"):
        lorakit.evaluate(glue.run_dir, task="stsb")
