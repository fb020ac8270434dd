"""``task.holdout``: training rows in place of the validation rows, of any task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lorakit.errors import RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.schema import CUSTOM, TaskSection
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import TaskData


@pytest.fixture
def own(tmp_path: Path) -> TaskSection:
    """60 rows of classes 2 to 1 to train on, 9 to validate and 4 to test."""
    for name, rows in (("train", 60), ("validation", 9), ("test", 4)):
        lines = [f"{name} {row},{'yes' if row % 3 else 'no'}" for row in range(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation", "test")}
    return TaskSection(name=CUSTOM, text="text", label="label", holdout=0.25, **files)


def texts(data: TaskData, split: str) -> list[str]:
    return list(data.splits[split]["text"])


def test_training_rows_stand_in_for_the_validation_rows(own: TaskSection) -> None:
    data = load_task(own, seed=5)
    train, held = texts(data, "train"), texts(data, "validation")
    assert sorted(train + held) == sorted(f"train {row}" for row in range(60))
    assert Counter(data.splits["validation"]["label"]) == {1: 10, 0: 5}  # a quarter of 40 and of 20
    assert texts(data, "test") == [f"test {row}" for row in range(4)]
    assert data.sources.keys() == {"train", "test"}
    assert data.origin.endswith("0.25 of the training rows in place of the validation rows")


def test_they_are_the_same_for_every_seed_and_limit(own: TaskSection) -> None:
    held = texts(load_task(own, seed=5), "validation")
    assert texts(load_task(own, seed=6), "validation") == held
    own.max_train_rows = 7
    data = load_task(own, seed=6)
    assert texts(data, "validation") == held
    assert len(data.splits["train"]) == 7
    own.split_seed = 1
    assert texts(load_task(own, seed=6), "validation") != held


def test_rows_that_are_validated_without_a_file_take_no_part_either(own: TaskSection) -> None:
    own.validation, own.holdout = None, None
    real = texts(load_task(own, seed=0), "validation")
    own.holdout = 0.25
    data = load_task(own, seed=0)
    assert not {*real} & {*texts(data, "train"), *texts(data, "validation")}
    assert len(real) + len(data.splits["train"]) + len(data.splits["validation"]) == 60


def test_of_glue_the_validation_rows_are_not_read(tmp_path: Path) -> None:
    lines = [f"a sentence {row}\t{row % 2}" for row in range(20)]
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    section = TaskSection(name="sst2", data=str(tmp_path), holdout=0.2)
    held = load_task(section, seed=0, splits=["validation"]).splits["validation"]
    assert Counter(held["label"]) == {0: 2, 1: 2}


def test_folds_have_held_out_rows_of_their_own() -> None:
    keys = ["task.name=custom", "task.train=a.csv", "task.text=t", "task.label=l", "task.folds=3", "task.fold=1"]
    with pytest.raises(RecipeError, match=r"task\.holdout: takes the place of the validation rows"):
        load_recipe("auto", ["model.name=bundled:minilm", *keys, "task.holdout=0.2"])


def test_test_rows_are_read_without_the_training_rows(own: TaskSection) -> None:
    learnt = load_task(own, seed=0).task
    Path(str(own.train)).unlink()
    assert texts(load_task(own, seed=0, splits=["test"], learnt=learnt), "test") == [f"test {row}" for row in range(4)]
