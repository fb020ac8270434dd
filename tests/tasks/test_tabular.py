import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task

ROWS = [{"text": f"text {i}", "label": "pos" if i % 3 else "neg"} for i in range(20)]


def write(path, rows):
    names = list(rows[0])
    separator = "\t" if path.suffix == ".tsv" else ","
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(
            "\n".join(separator.join(map(str, row)) for row in [names, *(row.values() for row in rows)]) + "\n"
        )
    return str(path)


def load(train, seed=0, text="text", label="label", **more):
    return load_task(TaskSection(name="custom", train=train, text=text, label=label, **more), seed=seed)


def problem_of(*args, **more):
    with pytest.raises(DataError) as caught:
        load(*args, **more)
    assert caught.value.exit_code == 2
    return caught.value.problems[0]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_each_kind_of_file_gives_the_same_rows(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", ROWS)
    data = load(path, validation=path)
    assert data.task.labels == ("neg", "pos")
    assert data.task.metrics == ("accuracy", "f1")
    expected = [{"text": row["text"], "label": int(row["label"] == "pos"), "idx": i} for i, row in enumerate(ROWS)]
    assert data.splits["train"].to_list() == data.splits["validation"].to_list() == expected


def test_pairs_given_names_ids_and_a_test_file_without_labels(tmp_path):
    train = write(tmp_path / "a.jsonl", [{"q": "a", "r": "b", "y": 1}, {"q": "c", "r": "d", "y": 0}])
    test = write(tmp_path / "t.csv", [{"q": "e", "r": "f"}])
    data = load(train, text="q", text_pair="r", label="y", labels=["no", "yes", "maybe"], validation=train, test=test)
    assert data.task.pair
    assert data.task.labels == ("no", "yes", "maybe")
    assert data.task.metrics == ("accuracy", "macro_f1")
    assert data.splits["train"][0] == {"text": "a", "text_pair": "b", "label": 1, "idx": 0}
    assert data.splits["test"].to_list() == [{"text": "e", "text_pair": "f", "idx": 0}]


def test_regression(tmp_path):
    path = write(tmp_path / "a.csv", [{"text": "a", "label": 1}, {"text": "b", "label": -2.5}])
    data = load(path, regression=True, validation=path, metric="mse")
    assert data.task.regression
    assert data.task.metrics == ("mse", "pearson", "spearman")
    assert data.splits["train"]["label"][:] == [1.0, -2.5]


def test_the_section_alone_is_checked_all_at_once():
    with pytest.raises(DataError) as caught:
        load_task(TaskSection(name="custom", data="hub", regression=True, labels=["a", "b"]), seed=0)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["task.train", "task.text", "task.label", "task.data", "task.labels"]


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"text_pair": "text"}, "task.text_pair"),
        ({"label": "text"}, "task.label"),
        ({"labels": ["one"]}, "task.labels"),
        ({"labels": ["a", "a"]}, "task.labels"),
        ({"labels": ["True", "true"]}, "task.labels"),
        ({"validation_fraction": 0.0}, "task.validation_fraction"),
        ({"validation_fraction": 1.0}, "task.validation_fraction"),
        ({"text": "txt"}, "task.text"),
        ({"text_pair": "other"}, "task.text_pair"),
        ({"label": "lable"}, "task.label"),
        ({"validation": "none.csv"}, "task.validation"),
        ({"test": "rows.xlsx"}, "task.test"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, more, key):
    problem = problem_of(write(tmp_path / "a.csv", ROWS), **more)
    assert problem.key == key
    assert not problem.where  # the recipe's own place belongs there


def test_an_unknown_column_lists_the_columns(tmp_path):
    problem = problem_of(write(tmp_path / "a.csv", ROWS), label="lable")
    assert (problem.valid, problem.hint) == ("text, label", "did you mean 'label'?")


def test_an_unknown_extension_lists_the_known_ones(tmp_path):
    problem = problem_of(write(tmp_path / "a.data", ROWS))
    kinds = ".csv, .tsv, .json, .jsonl, .ndjson, .parquet"
    assert problem.valid == f"{kinds}; each also packed as .gz .bz2 .xz .zip"
    path = write(tmp_path / "b.csv", ROWS)
    problem = problem_of(path, test=write(tmp_path / "a.data", ROWS))
    assert problem.valid == f"{kinds}, .txt; each also packed as .gz .bz2 .xz .zip"


@pytest.mark.parametrize(("content", "says"), [("", "is empty"), ("text,label\n", "a header but no rows")])
def test_files_without_rows_are_told(tmp_path, content, says):
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert says in problem_of(str(path)).what


@pytest.mark.parametrize(
    ("column", "other"), [("sentence1", "sentence2"), ("text_b", "text_a"), ("premise", "hypothesis")]
)
def test_half_a_pair_is_refused(tmp_path, column, other):
    path = write(tmp_path / "a.csv", [{column: "a", other: "b", "label": i} for i in (0, 1)])
    problem = problem_of(path, text=column)
    assert problem.key == "task.text_pair"
    first, second = sorted((column, other)) if column != "premise" else (column, other)
    assert f"task.text={first} task.text_pair={second}" in problem.hint


@pytest.mark.parametrize(
    ("rows", "more", "line", "says"),
    [
        ([{"text": " ", "label": 0}], {}, 5, "1 row has no text in column 'text'"),
        ([{"text": None, "label": 0}], {}, 5, "1 row has no text"),
        ([{"text": 5, "label": 0}], {}, 5, "holds a int where text is needed: 5"),
        ([{"text": "a", "label": None}, {"text": "a"}], {}, 5, "2 rows have no label in column 'label' (lines 5, 6)"),
        ([{"text": "a", "label": float("nan")}], {}, 5, "1 row has no label"),
        ([{"text": "a", "label": 3}], {"labels": ["neg", "pos"]}, 5, "label '3' is not one of the 2 labels"),
        ([{"text": "a", "label": "warm"}], {"regression": True}, 5, "label 'warm' is not a number"),
    ],
)
def test_wrong_rows_are_told_with_file_and_line(tmp_path, rows, more, line, says):
    good = [{"text": f"t{i}", "label": i % 2} for i in range(4)]
    path = write(tmp_path / "a.jsonl", good + rows)
    problem = problem_of(path, **more)
    assert problem.where == f"{path}:{line}"
    assert says in problem.what


def test_a_label_that_only_validation_has_is_told(tmp_path):
    path = write(tmp_path / "a.csv", ROWS)
    other = write(tmp_path / "b.csv", [{"text": "a", "label": "meh"}])
    problem = problem_of(path, validation=other)
    assert "label 'meh' is not one of the 2 labels" in problem.what
    assert problem.hint == "give all label names as task.labels"


def test_one_row_cannot_be_split(tmp_path):
    path = write(tmp_path / "a.csv", [{"text": "a", "label": 1}])
    assert problem_of(path, labels=["x", "y"]).key == "task.train"


@pytest.mark.parametrize(
    ("grades", "more", "order"),
    [
        (["2", "10", "1", "2"], {}, ("1", "2", "10")),
        (["good", "bad", "fair", "bad"], {"labels": ["bad", "fair", "good"]}, ("bad", "fair", "good")),
    ],
)
def test_grades_have_an_order_and_scores_that_respect_it(tmp_path, grades, more, order):
    path = tmp_path / "grades.csv"
    path.write_text("text,grade\n" + "".join(f"text {row},{grade}\n" for row, grade in enumerate(grades)))
    section = TaskSection(name="custom", train=str(path), validation=str(path), text="text", label="grade", **more)
    task = load_task(replace(section, ordered=True), seed=0).task
    assert (task.labels, task.ordered) == (order, True)
    assert task.metrics == ("accuracy", "macro_f1", "quadratic_kappa", "mae")
    assert load_task(replace(section, ordered=True, metric="mae"), seed=0).task.metrics[0] == "mae"
    with pytest.raises(DataError, match=r"task\.ordered=true"):
        load_task(replace(section, metric="mae"), seed=0)


def test_grades_whose_order_nothing_tells_are_refused(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_text("text,grade\na,good\nb,bad\nc,fair\n")
    section = TaskSection(name="custom", train=str(path), text="text", label="grade", ordered=True)
    with pytest.raises(DataError, match="nothing tells the order of the grades bad, fair, good"):
        load_task(section, seed=0)
