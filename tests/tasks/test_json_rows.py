"""JSON in every shape that rows come in, read a value at a time."""

import gzip
import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks import json_rows, json_text
from lorakit.tasks.json_rows import read_json, read_jsonl
from lorakit.tasks.sources import load_task
from lorakit.tasks.table import whole

ROWS = [{"text": "a", "label": 1}, {"text": "b\n", "label": None}, {"text": "ü \U0001f600", "label": 0.5}]
COLUMNS = {"text": ["a", "b\n", "ü \U0001f600"], "label": [1, None, 0.5]}
WANTED = ("text", "label")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problem_of(path, read=read_json):
    with pytest.raises(DataError) as caught:
        whole(read(path, WANTED))
    return caught.value.problems[0]


SHAPES = {
    "array": json.dumps(ROWS),
    "array, indented": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "wrapped": json.dumps({"version": 1.5, "tags": ["a"], "empty": [], "rows": ROWS, "about": {"rows": 3}}),
    "wrapped, indented": json.dumps({"data": ROWS}, indent=1),
    "byte order mark": "\ufeff" + json.dumps(ROWS),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [1, 7, 2**16])
def test_every_shape_has_the_same_rows(tmp_path, monkeypatch, shape, block):
    monkeypatch.setattr(json_text, "BLOCK", block)
    table = whole(read_json(write(tmp_path / "a.json", SHAPES[shape]), WANTED))
    assert table.columns == COLUMNS
    notes = {"wrapped": ["the rows are its list 'rows'"], "wrapped, indented": ["the rows are its list 'data'"]}
    assert list(table.notes) == notes.get(shape, [])


@pytest.mark.parametrize("shape", ["array", "array, indented", "lines", "byte order mark"])
def test_a_jsonl_file_may_be_an_array(tmp_path, shape):
    assert whole(read_jsonl(write(tmp_path / "a.jsonl", SHAPES[shape]), WANTED)).columns == COLUMNS


def test_rows_know_their_lines(tmp_path):
    content = '\n[\n  {"text": "a",\n   "label": 1}, {"text": "b", "label": 2},\n\n{"text": "c", "label": 3}]'
    assert whole(read_json(write(tmp_path / "a.json", content), WANTED)).numbers == [3, 4, 6]


def test_lines_are_lines_whatever_lists_they_hold(tmp_path):
    rows = [{"text": "a", "label": 1, "marks": [{"start": 1}]}, {"text": "b", "label": 2, "marks": []}]
    path = write(tmp_path / "a.json", "\n".join(map(json.dumps, rows)))
    assert whole(read_json(path, WANTED)).columns["text"] == ["a", "b"]


def test_one_object_is_one_row_where_it_has_the_columns(tmp_path):
    path = write(tmp_path / "a.json", '\n{"text": "a", "marks": [1, 2],\n "label": 1}\n')
    table = whole(read_json(path, WANTED))
    assert (table.columns, table.numbers) == ({"text": ["a"], "label": [1]}, [2])


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ('[{"text": "a"}, [1]]', 1, "not a JSON object"),
        ('[{"text": "a"},\n"b"]', 2, "not a JSON object"),
        ('[{"text": "a"}\n', 2, "broken JSON: Expecting ']'"),
        ('[{"text": "a"},\n]', 2, "broken JSON: a comma before the end of an array"),
        ('[{"text": "a"}]\n[', 2, "broken JSON: there is more after its end"),
        ('[{"text": "a"} {"text": "b"}]', 1, "broken JSON: Expecting ']'"),
        ('[{"text": "a"},\n{"text": "b", "text": "c"}]', 2, "a key is there twice: text"),
        ('[{"text": "a"},\n{"text": "\\ud83d"}]', 2, "half of a surrogate pair"),
        ('[{"text": ' + "9" * 5000 + "}]", 1, "broken JSON"),
        ('[\n{"text": ' + "[" * 100_000, 2, "nested too deeply"),
        ('[{"text":\n\n a}' + " " * 200_000 + "]", 3, "broken JSON: Expecting value"),
        ('[{"text": "a\n"}]', 1, "broken JSON: Invalid control character"),
        ('[{"text": "a"},\n{"text": "b\xff"}]'.encode("latin1"), 2, "not UTF-8 text (byte 0xff)"),
        ('{"data": [{"text": "a"}],\n "more": [{"text": "b"}]}', 2, "the list 'data' or the list 'more'"),
        ('{"text": "a", "text": "b"}', 1, "a key is there twice: text"),
        ('{"data": [{"text": "a"}]\n', 2, "broken JSON: Expecting '}'"),
        ('{1: [{"text": "a"}]}', 1, "a key that is no string"),
        ('{"text": {"0": "a"}, "label": {"0": 1}}', None, "one object, with no list of rows in it; it has text, label"),
        ('{"text": ["a"], "label": [1]}', None, "one object, with no list of rows in it; it has text, label"),
        ("{}", None, "one object, with no list of rows in it; it has nothing"),
        ("[]", None, "the file is empty"),
        ('{"data": []}', None, "no list of rows in it; it has data"),
        (" \n", None, "the file is empty"),
        ('"text"', 1, "not a JSON object"),
    ],
)
def test_broken_files_are_told_with_their_line(tmp_path, content, line, says):
    problem = problem_of(write(tmp_path / "a.json", content))
    assert says in problem.what
    assert problem.where == (f"{tmp_path / 'a.json'}:{line}" if line else str(tmp_path / "a.json"))


def test_columns_as_pandas_writes_them_say_how_to_save_rows(tmp_path):
    problem = problem_of(write(tmp_path / "a.json", '{"text": {"0": "a"}, "label": {"0": 1}}'))
    assert 'orient="records"' in problem.hint


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=12), st.integers(0, 200), st.integers(0, 4))
def test_whatever_is_put_into_it_is_read_or_told(tmp_path_factory, put, at, cut):
    path = tmp_path_factory.mktemp("json") / "a.json"
    content = json.dumps({"rows": ROWS}, indent=1).encode()
    write(path, content[:at] + put + content[at + cut :])
    try:
        found: list[object] = [len(whole(read_json(path, WANTED))) > 0]
    except DataError as error:
        found = [re.fullmatch(rf"{re.escape(str(path))}(:\d+)?", problem.where) for problem in error.problems]
    assert len(found) == 1
    assert found[0]


def test_memory_is_bounded_by_a_chunk_and_not_by_the_file(tmp_path):
    row = json.dumps({"text": "some words " * 20, "label": 1})
    path = write(tmp_path / "a.json.gz", gzip.compress(("[" + ",".join([row] * 40_000) + "]").encode(), 1))
    tracemalloc.start()
    try:
        count = sum(len(table) for table in read_json(path, WANTED))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40_000  # of 10 MB
    assert peak < 2**22


@pytest.mark.parametrize("content", ['["', '{"rows": ["', '[{"text": "'])
def test_a_value_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch, content):
    for module in (json_text, json_rows):
        monkeypatch.setattr(module, "LONGEST", 2**18)
    path = write(tmp_path / "a.json.gz", gzip.compress(content.encode() + b"a" * 2**24))
    tracemalloc.start()
    try:
        assert problem_of(path).what == "a value is longer than 128 MiB"
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def load(path, text, label):
    return load_task(TaskSection(name="custom", train=str(path), validation=str(path), text=text, label=label), seed=0)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_what_is_inside_of_objects_is_named_with_dots(tmp_path, name):
    rows = [
        {"review": {"body": "a", "by": {"age": 1}}, "x.y": 3},
        {"review": {"body": "b"}},
        {"review": {"body": "c", "by": {"age": 2}}},
    ]
    path = write(tmp_path / name, "\n".join(map(json.dumps, [rows[0], rows[2]])))
    data = load(path, "review.body", "review.by.age")
    assert data.splits["train"].to_list() == [{"text": "a", "label": 0, "idx": 0}, {"text": "c", "label": 1, "idx": 1}]
    path = write(tmp_path / name, json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"1 row has no label in column 'review.by.age'"):
        load(path, "review.body", "review.by.age")
    with pytest.raises(DataError) as caught:
        load(path, "review.bodi", "review.by.age")
    (problem,) = caught.value.problems
    assert problem.valid == "review, x.y, review.by.age, review.body, review.by"
    assert problem.hint == "did you mean 'review.body'?"


def test_a_key_with_a_dot_is_meant_before_what_is_inside(tmp_path):
    rows = [{"a.b": "x", "a": {"b": "y"}, "label": i} for i in (0, 1)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert load(path, "a.b", "label").splits["train"]["text"][:] == ["x", "x"]


def test_an_object_where_text_is_needed_says_what_to_name(tmp_path):
    rows = [{"review": {"body": "a"}, "label": i} for i in (0, 1)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as caught:
        load(path, "review", "label")
    assert caught.value.problems[0].hint == "name what is inside of it, such as review.body"
