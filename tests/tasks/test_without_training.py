"""Validation rows of own data whose training file is gone: the same rows, with the labels that were learnt."""

import shutil

import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task
from lorakit.tasks.without_training import is_gone

NAMES = "text,label\na,yes\nb,no\nc,yes\n"
SETS = "text,label\na,hot;sweet\nb,sweet\nc,\nd,hot\n"
NUMBERS = "text,label\na,1.5\nb,2\nc,0\n"


@pytest.mark.parametrize(
    ("content", "settings"),
    [(NAMES, {}), (NAMES, {"labels": ["yes", "no"]}), (SETS, {"multi_label": True}), (NUMBERS, {"regression": True})],
)
def test_the_rows_are_those_that_were_read_with_it(tmp_path, content, settings):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text(content)
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    section = TaskSection(name="custom", text="text", label="label", **files, **settings)
    whole = load_task(section, seed=0)
    (tmp_path / "train.csv").unlink()
    alone = load_task(section, seed=0, splits=["validation"], learnt=whole.task)
    assert alone.task == whole.task
    assert list(alone.splits) == ["validation"]
    assert alone.splits["validation"].to_list() == whole.splits["validation"].to_list()
    assert "train.csv is gone" in alone.origin
    for splits in (None, ["train"]):
        with pytest.raises(DataError, match=r"there is no file .*train\.csv"):
            load_task(section, seed=0, splits=splits, learnt=whole.task)


def test_ids_are_taken_where_no_name_is_a_number(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text(NAMES)
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    section = TaskSection(name="custom", text="text", label="label", labels=["yes", "no"], **files)
    task = load_task(section, seed=0).task
    shutil.move(tmp_path / "train.csv", tmp_path / "elsewhere.csv")
    (tmp_path / "validation.csv").write_text("text,label\na,0\nb,1\n")
    assert load_task(section, seed=0, splits=["validation"], learnt=task).splits["validation"]["label"][:] == [0, 1]


def test_what_is_gone(tmp_path):
    (tmp_path / "a.csv").touch()
    there, pattern = str(tmp_path / "a.csv"), str(tmp_path / "*.csv")
    assert not any(map(is_gone, (there, pattern, str(tmp_path), "hub:owner/name", None, "")))
    assert all(map(is_gone, (f"{there}x", f"{pattern}x")))
