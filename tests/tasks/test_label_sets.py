"""Several labels a row, however files write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.batching import label_tensor
from lorakit.tasks.label_sets import joined, labels_of
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import TaskData

SETS: list[list[str]] = [["b", "a"], [], ["c"], ["a", "c", "b"], ["a"], [], ["b"], ["c", "a"]]


def loaded(path: Path, **more: Any) -> TaskData:
    given = {"label": "y", "multi_label": True, "validation": str(path)} | more
    return load_task(TaskSection(name="custom", train=str(path), text="t", **given), seed=0)


def write(path: Path, cells: list[Any], **columns: list[Any]) -> Path:
    frame = pd.DataFrame({"t": [f"text {row}" for row in range(len(cells or next(iter(columns.values()))))], **columns})
    if cells:
        frame["y"] = cells
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return path


def read(data: TaskData) -> list[list[str]]:
    rows = data.splits["train"]["label"][:]
    return [[name for name, one in zip(data.task.labels, row, strict=True) if one] for row in rows]


FORMS = [
    ("a.csv", lambda row: ";".join(row)),
    ("a.csv", lambda row: " | ".join(row)),
    ("a.csv", lambda row: ", ".join(row)),
    ("a.csv", json.dumps),
    ("a.csv", str),  # as pandas writes a column of lists
    ("a.json", list),
    ("a.jsonl", list),
    ("a.jsonl", lambda row: ";".join(row)),
    ("a.parquet", list),
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_form_gives_the_same_labels(tmp_path, name, form):
    data = loaded(write(tmp_path / name, [form(row) for row in SETS]))
    assert data.task.labels == ("a", "b", "c")
    assert read(data) == [sorted(row) for row in SETS]
    assert data.task.metrics == ("micro_f1", "macro_f1", "subset_accuracy")


def test_a_column_for_each_label_gives_them_too(tmp_path):
    flags = {name: [name in row for row in SETS] for name in "cab"}
    written = write(tmp_path / "a.csv", [], c=flags["c"], a=[*map(int, flags["a"])], b=[*map(float, flags["b"])])
    data = loaded(written, label=None, label_columns=["c", "a", "b"])
    assert data.task.labels == ("c", "a", "b")
    assert [set(row) for row in read(data)] == [set(row) for row in SETS]
    assert data.task.label_columns == ("c", "a", "b")


def test_class_names_of_a_saved_data_set_are_the_labels(tmp_path):
    """Lists of class numbers, as go_emotions on the hub has them; a class without a row is a label too."""
    names = ["x", "a", "c", "b"]
    features = datasets.Features(
        {"t": datasets.Value("string"), "y": datasets.Sequence(datasets.ClassLabel(names=names))}
    )
    numbers = [[names.index(label) for label in row] for row in SETS]
    made = datasets.Dataset.from_dict({"t": [f"text {row}" for row in range(8)], "y": numbers}, features=features)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "saved", tmp_path / "a.parquet"):
        data = loaded(path)
        assert data.task.labels == tuple(names)
        assert [set(row) for row in read(data)] == [set(row) for row in SETS]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_numbers_of_classes_may_stand_for_the_names_given(tmp_path, suffix):
    names = ["x", "a", "c", "b"]
    numbers = [[names.index(label) for label in row] for row in SETS]
    cells = numbers if suffix == "jsonl" else [" ".join(map(str, row)) for row in numbers]
    more = {} if suffix == "jsonl" else {"label_separator": " "}
    data = loaded(write(tmp_path / f"a.{suffix}", cells), labels=names, **more)
    assert data.task.labels == tuple(names)
    assert [set(row) for row in read(data)] == [set(row) for row in SETS]
    with pytest.raises(DataError, match="label '4' is not one of the 4 labels"):
        loaded(write(tmp_path / "b.jsonl", [*numbers[:2], [4]]), labels=names)


def test_the_tensor_of_some_rows_is_theirs(tmp_path):
    split = loaded(write(tmp_path / "a.csv", [";".join(row) for row in SETS])).splits["train"].select([3, 1, 0])
    assert label_tensor(split).tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]


def test_the_separator_is_said_and_kept_for_other_files(tmp_path):
    first, second = (write(tmp_path / name, cells) for name, cells in (("a.csv", ["a|b", "c"]), ("b.csv", ["a", "b"])))
    data = loaded(first, validation=str(second))
    assert data.task.label_separator == "|"
    assert "labels are separated by bars" in data.origin
    assert data.splits["validation"]["label"][:] == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("cells", "more", "says"),
    [
        (["a;b", "c,d"], {}, "may be separated by semicolons or commas"),
        (["a;b", "c"], {"labels": ["a", "b"]}, r"label 'c' is not one of the 2 labels \(line 3\)"),
        (["a", "a;"], {}, "has one label, a"),
        ([["a"], None, ["b"]], {}, r"1 row has no label in column 'y' \(line 2\)"),
        ([["a"], ["b", "b"]], {}, r"the labels b, b name one twice \(line 2\)"),
        ([["a"], [{"b": 1}]], {}, "holds a list where a label is needed"),
        ([["0.5"], ["b"]], {}, "numbers such as 0.5"),
        ([f"word{row} more{row}" for row in range(99)], {}, "99 different labels in 99 rows"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, cells, more, says):
    path = write(tmp_path / ("a.jsonl" if isinstance(cells[0], list) else "a.csv"), cells)
    with pytest.raises(DataError, match=says):
        loaded(path, **more)


def test_a_list_without_the_key_says_the_key(tmp_path):
    with pytest.raises(DataError, match=r"task\.multi_label=true"):
        loaded(write(tmp_path / "a.jsonl", SETS), multi_label=False)


def test_lists_of_zeros_and_ones_are_columns(tmp_path):
    with pytest.raises(DataError, match=r"task\.label_columns"):
        loaded(write(tmp_path / "a.jsonl", [[0, 1, 1], [1, 0, 0]]))


def test_a_column_that_says_neither_yes_nor_no_is_told(tmp_path):
    path = write(tmp_path / "a.csv", [], a=[0, 1, -1], b=[1, 0, 1])
    with pytest.raises(DataError, match=r"column 'a' holds '-1' where .* \(line 4\)"):
        loaded(path, label=None, label_columns=["a", "b"])
    with pytest.raises(DataError, match="no column 'z'"):
        loaded(path, label=None, label_columns=["b", "z"])


@pytest.mark.parametrize("cells", [["", ""], [None, None]])
def test_test_rows_need_no_labels(tmp_path, cells):
    path = write(tmp_path / "a.csv", [";".join(row) for row in SETS])
    data = loaded(path, test=str(write(tmp_path / "test.csv", cells)))
    assert "label" not in data.splits["test"].column_names


@pytest.mark.parametrize("names", [("a", "b"), ("a;", "b"), ("a;", "b|"), ("a;,|", "b")])
def test_joined_labels_are_read_again_as_they_are(names):
    text = joined(names, names)
    separator = next((mark for mark in ";|," if mark in text and not any(mark in name for name in names)), "")
    assert labels_of(text, separator) == [*names]


def many(tmp_path: Path, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n, k) of the rows trained on and of those held out, of a file with labels of all frequencies."""
    draw = np.random.default_rng(seed)
    has = draw.random((400, 6)) < [0.6, 0.3, 0.1, 0.03, 0.01, 0.5]
    has[:2, 4] = True  # two rows at least
    cells = [";".join(f"l{place}" for place in np.flatnonzero(row)) for row in has]
    data = loaded(write(tmp_path / "a.csv", cells), validation=None, validation_fraction=fraction)
    return tuple(np.asarray(data.splits[name]["label"]) for name in ("train", "validation"))  # type: ignore[return-value]


@pytest.mark.parametrize("fraction", [0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_label_keeps_its_share_of_the_rows_held_out(tmp_path, fraction, seed):
    train, held = many(tmp_path, fraction, seed)
    sizes = train.sum(0) + held.sum(0)
    assert len(held) == 400 * fraction  # rows without labels make it whole
    assert (held.sum(0) >= 1).all()
    assert (train.sum(0) >= 1).all()
    # A draw of rows without looking is off by two of its standard deviations for some label; this one by a row or two.
    assert (abs(held.sum(0) - np.maximum(fraction * sizes, 1)) <= 2).all()


def test_rows_without_labels_are_held_out_too(tmp_path):
    train, held = many(tmp_path, 0.25)
    bare, all_bare = (~held.any(1)).sum(), (~held.any(1)).sum() + (~train.any(1)).sum()
    assert 0 < bare < all_bare / 2
