import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task


@pytest.fixture
def folder(tmp_path):
    for split, rows in (("train", 50), ("validation", 20), ("test", 20)):
        columns = {
            "sentence": [f"{split} {i}" for i in range(rows)],
            "label": [i % 2 for i in range(rows)],
            "idx": range(rows),
        }
        pq.write_table(
            pa.table({name: list(values) for name, values in columns.items()}), tmp_path / f"{split}.parquet"
        )
    return tmp_path


def test_auto_takes_the_folder_of_the_environment(folder, monkeypatch):
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(folder))
    data = load_task(TaskSection(name="sst2"), seed=0, offline=True)
    assert len(data.splits["train"]) == 50
    assert data.origin == f"{folder} ($LORAKIT_GLUE_DIR)"


def test_a_wrong_folder_in_the_environment_is_told(folder, monkeypatch):
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(folder / "none"))
    with pytest.raises(DataError, match=r"\$LORAKIT_GLUE_DIR names .*none, which is not a folder"):
        load_task(TaskSection(name="sst2"), seed=0)


def test_limits_take_a_seeded_subset_of_train_and_one_validation_subset_for_all_seeds(folder):
    def load(seed):
        section = TaskSection(name="sst2", data=str(folder), max_train_rows=10, max_eval_rows=7)
        return load_task(section, seed=seed).splits

    first = load(0)
    chosen = first["train"]["idx"][:]
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen)
    assert chosen == load(0)["train"]["idx"][:] != load(1)["train"]["idx"][:]
    kept = first["validation"]["idx"][:]
    assert len(set(kept)) == 7
    assert kept == sorted(kept) == load(1)["validation"]["idx"][:]
    assert kept != list(range(7))  # the first rows of a sorted file would all be of one class
    assert len(first["test"]) == 20  # a file of predictions must be complete


def test_limits_beyond_the_rows_keep_all(folder):
    section = TaskSection(name="sst2", data=str(folder), max_train_rows=500, max_eval_rows=500)
    splits = load_task(section, seed=0).splits
    assert [len(splits[name]) for name in ("train", "validation")] == [50, 20]


@pytest.mark.parametrize("key", ["max_train_rows", "max_eval_rows"])
def test_a_limit_that_leaves_nothing_is_refused(folder, key):
    with pytest.raises(DataError, match=f"task.{key}: 0 rows leave nothing"):
        load_task(TaskSection(name="sst2", data=str(folder), **{key: 0}), seed=0)


def test_the_chosen_metric_is_the_main_one(folder):
    data = load_task(TaskSection(name="sst2", data=str(folder), metric="matthews"), seed=0)
    assert data.task.metrics == ("matthews", "accuracy")
    with pytest.raises(DataError, match=r"task\.metric"):
        load_task(TaskSection(name="sst2", data=str(folder), metric="pearson"), seed=0)


def test_an_unknown_task_is_told_with_the_nearest():
    with pytest.raises(DataError) as caught:
        load_task(TaskSection(name="mrcp"), seed=0)
    (problem,) = caught.value.problems
    assert (problem.key, problem.hint) == ("task.name", "did you mean 'mrpc'?")
    assert "custom" in problem.valid


def test_a_two_sentence_task_given_one_column_is_refused_with_all_such_keys():
    with pytest.raises(DataError) as caught:
        load_task(TaskSection(name="mrpc", text="sentence1", labels=["a", "b"]), seed=0)
    assert [problem.key for problem in caught.value.problems] == ["task.text", "task.labels"]
    assert "sentence1 and sentence2" in caught.value.problems[0].what
    assert caught.value.exit_code == 2
