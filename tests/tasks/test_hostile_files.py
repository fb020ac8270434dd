"""A data file, whatever is in it, is read as it was written, or refused in one error that tells where; and nothing is left behind."""

import datetime
import decimal
import gzip
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from support.hostile.effort import efforts, try_all
from support.hostile.made_up_files import (
    KINDS,
    OBJECTS,
    as_csv,
    as_jsonl,
    as_parquet,
    broken,
    jsonl_of,
    parquet_of,
    tables,
)
from support.thinned import thinned

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks import stored_rows
from lorakit.tasks.sources import load_task
from lorakit.tasks.table import CHUNK

GOOD = [("fine", "yes"), ("bad", "no"), ("so, so", "no")]


@pytest.fixture(params=["memory", "cache"])
def folder(request, tmp_path, monkeypatch):
    """A folder for one data file, read in memory or through the cache."""
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "cache":
        monkeypatch.setattr(stored_rows, "LARGE", 1)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def load(path, content, **more):
    """The rows of the file (text, label, idx), or the one error about it."""
    path.write_bytes(content)
    section = TaskSection(name="custom", train=str(path), validation=str(path), text="text", label="label", **more)
    try:
        data = load_task(section, seed=0)
    except DataError as error:
        check_told(error, path)
        return error
    finally:
        assert list(path.parent.iterdir()) == [path]
        assert not list(path.parent.parent.glob("cache/*.part"))
    split = data.splits["train"].to_list()
    assert data.splits["validation"].to_list() == split
    return [(row["text"], data.task.labels[row["label"]] if data.task.labels else row["label"]) for row in split]


def check_told(error, path):
    (problem,) = error.problems
    assert str(path) in f"{problem.where} {problem.what}"
    assert re.fullmatch(rf"({re.escape(str(path))}(:\d+)?)?", problem.where)
    assert len(str(error)) < 4000
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", str(error))
    str(error).encode()


def first_bad(made):
    """The first row that has no text, else the first that has no label; None where all have both."""
    for column in (0, 1):
        for row, values in enumerate(made):
            if values[column].strip() in (["", "nan"] if column else [""]):
                return row
    return None


@pytest.mark.parametrize("kind", thinned(KINDS, 2))
@efforts(few=15)
def test_what_is_written_is_read(effort, folder, kind):
    plain = KINDS[kind].plain
    labels = ["-1", "0", "1", " no ", "a,b", 'say "x"', "yes", "\u2028", "", "nan"]

    def check(made):
        found = load(
            folder / f"rows.{kind}", KINDS[kind].write(made), labels=["-1", "0", "1", "no", "a,b", 'say "x"', "yes"]
        )
        bad = first_bad(made)
        if bad is None:
            assert found == [(text, label.strip()) for text, label in made]
        else:
            assert isinstance(found, DataError)
            if plain is not as_parquet:
                before = plain(made[:bad])
                line = before.count(b"\n") + lone_returns(before, kind) + 1
                assert found.problems[0].where.endswith(f":{line}")
            else:
                assert f"row {bad + 1})" in found.problems[0].what or f"rows {bad + 1}," in found.problems[0].what

    try_all(effort, tables(KINDS[kind].texts, st.sampled_from(labels)), check)


def lone_returns(content, kind):
    """Line ends without a line feed, which a csv may have."""
    return len(re.findall(rb"\r(?!\n)", content)) if "csv" in kind or kind == "zip" else 0


@pytest.mark.parametrize("kind", thinned(KINDS, 2))
@efforts(few=20)
def test_a_broken_file_is_refused_or_read(effort, folder, kind):
    def check(content):
        found = load(folder / f"rows.{kind}", content)
        assert isinstance(found, DataError) or all(isinstance(text, str) and text.strip() for text, _ in found)

    try_all(effort, broken(kind), check)


@pytest.mark.parametrize("regression", [False, True])
@efforts(few=20)
def test_jsonl_of_any_values(effort, folder, regression):
    def check(objects):
        found = load(folder / "rows.jsonl", jsonl_of(objects), regression=regression)
        if not isinstance(found, DataError):
            assert all(len(dict(pairs)) == len(pairs) for pairs in objects)
            kept = [dict(pairs) for pairs in objects]
            assert [text for text, _ in found] == [row["text"] for row in kept]
            if regression:
                assert [label for _, label in found] == [float(np.float32(row["label"])) for row in kept]

    try_all(effort, OBJECTS, check)


DAY = datetime.date(2026, 1, 1)
PARQUET_COLUMNS = {
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), pa.array(["no", "yes", "no"]).dictionary_encode()),
    "large and view": (pa.array(["a", "b", "a"], pa.large_string()), pa.array(["no", "yes", "no"], pa.string_view())),
    "whole decimals": (pa.array(["a", "b", "a"]), pa.array([decimal.Decimal(f"{i}.00") for i in (0, 1, 0)])),
    "whole floats": (pa.array(["a", "b", "a"]), pa.array([0.0, 1.0, 0.0], pa.float16())),
    "bool": (pa.array(["a", "b", "a"]), pa.array([False, True, False])),
    "dates": (pa.array(["a", "b", "a"]), pa.array([DAY, DAY + datetime.timedelta(1), DAY])),
    "times": (pa.array(["a", "b", "a"]), pa.array([10**9, 86401 * 10**9, 10**9], pa.timestamp("ns"))),
    "unsigned": (pa.array(["a", "b", "a"]), pa.array([0, 1, 0], pa.uint64())),
}


@pytest.mark.parametrize("name", PARQUET_COLUMNS)
def test_parquet_types_that_are_text_and_labels(folder, name):
    text, label = PARQUET_COLUMNS[name]
    found = load(folder / "rows.parquet", parquet_of(text=text, label=label))
    first, second = {
        "dictionary": ("no", "yes"),
        "large and view": ("no", "yes"),
        "bool": ("false", "true"),
        "dates": ("2026-01-01", "2026-01-02"),
        "times": ("1970-01-01 00:00:01", "1970-01-02 00:00:01"),
    }.get(name, ("0", "1"))
    assert found == [("a", first), ("b", second), ("a", first)]


BROKEN_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": pa.array([["a"], ["b"]])}, "column 'text' holds a list where text is needed: ['a'] (rows 1, 2)"),
        ({"text": pa.nulls(2)}, "2 rows have no text in column 'text' (rows 1, 2)"),
        ({"text": [b"a", b"b"]}, "column 'text' holds a bytes where text is needed: b'a' (rows 1, 2)"),
        ({"text": [1, 2]}, "column 'text' holds a int where text is needed: 1 (rows 1, 2)"),
        ({"text": pa.array(["a", None]).dictionary_encode()}, "1 row has no text in column 'text' (row 2)"),
        ({"label": pa.nulls(2)}, "column 'label' has no labels"),
        ({"label": [DAY, DAY]}, "all labels in column 'label' are the same"),
        ({"label": [DAY - DAY, DAY - DAY]}, "column 'label' holds a timedelta where a label is needed"),
        (
            {"label": pa.array([2**55, 0], pa.timestamp("ms"))},
            "column 'label' (timestamp[ms]) cannot be read, rows 1 to 2",
        ),
        ({"label": [{"a": 1}, {"a": 2}]}, "column 'label' holds a dict where a label is needed: {'a': 1} (rows 1, 2)"),
        ({"label": [0.5, 1.0]}, "numbers such as 0.5, not classes"),
        ({"text": pa.concat_arrays([BROKEN_UTF8, BROKEN_UTF8])}, "column 'text' (string) cannot be read, rows 1 to 2"),
    ],
)
def test_parquet_types_that_are_not(folder, columns, says):
    error = load(folder / "rows.parquet", parquet_of(**({"text": ["a", "b"], "label": ["no", "yes"]} | columns)))
    assert says in error.problems[0].what


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "content", "line", "says"),
    [
        ("a.csv", b"", None, "the file is empty"),
        ("a.tsv", b"\n\n", None, "the file is empty"),
        ("a.jsonl", b" \n", None, "the file is empty"),
        ("a.parquet", b"", None, "not a readable parquet file"),
        ("a.parquet", cut(as_parquet(GOOD)), None, "not a readable parquet file"),
        ("a.csv", as_parquet(GOOD), 1, "not UTF-8 text (byte 0x"),
        ("a.csv", gzip.compress(as_csv(GOOD), mtime=0), 1, "not UTF-8 text (byte 0x"),
        ("a.jsonl", as_jsonl(GOOD).decode().encode("utf-16-le"), 1, "not UTF-8 text (byte 0x00)"),
        ("a.csv", b"text,label\na\0b,yes\n", 2, "not UTF-8 text (byte 0x00)"),
        ("a.csv", b"text,label,text\na,yes,b\n", 1, "the header names a column twice: text"),
        ("a.jsonl", b'{"text": "a", "label": 1, "label": 0}', 1, "a key is there twice: label"),
        ("a.jsonl", b'{"text": "\\ud83d", "label": 1}', 1, "half of a surrogate pair"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"[" * 100_000, 1, "nested too deeply"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", 1, "broken JSON"),
        ("a.jsonl", as_jsonl(GOOD) + b'{"text": {"a": "b"}, "label": "no"}', 4, "column 'text' holds a dict"),
        ("a.jsonl", as_jsonl(GOOD) + b'{"text": "a", "label": NaN}', 4, "1 row has no label"),
        ("a.csv", as_csv(GOOD * CHUNK) + b"a\n", 3 * CHUNK + 2, "1 fields where the header has 2"),
        (
            "a.tsv",
            b"text\tlabel\n" + b"a\tyes\n\tno\n" * CHUNK,
            3,
            "1,000 rows have no text in column 'text' (lines 3, 5,",
        ),
    ],
)
def test_a_nasty_file_is_refused_with_its_line(folder, name, content, line, says):
    error = load(folder / name, content)
    assert says in error.problems[0].what
    if "no label" not in says:
        assert error.problems[0].where == (f"{folder / name}:{line}" if line else str(folder / name))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_empty_folder_is_no_file(tmp_path, kind):
    (tmp_path / f"a.{kind}").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        load_task(TaskSection(name="custom", train=str(tmp_path / f"a.{kind}"), text="text", label="label"), seed=0)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/a", "\0", "a\nb"])
def test_a_name_that_no_file_has_is_refused(name):
    with pytest.raises(DataError, match="there is no file") as caught:
        load_task(TaskSection(name="custom", train=f"{name}.csv", text="text", label="label"), seed=0)
    assert len(str(caught.value)) < 500
    with pytest.raises(DataError, match="there is no folder") as caught:
        load_task(TaskSection(name="sst2", data=name), seed=0)
    assert len(str(caught.value)) < 500


def test_a_compressed_file_without_a_kind_is_named_with_the_kinds_that_can_be_read(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(as_csv(GOOD)))
    with pytest.raises(DataError, match="cannot tell what kind of file") as caught:
        load_task(TaskSection(name="custom", train=str(tmp_path / "a.gz"), text="text", label="label"), seed=0)
    (problem,) = caught.value.problems
    assert problem.valid == ".csv, .tsv, .json, .jsonl, .ndjson, .parquet; each also packed as .gz .bz2 .xz .zip"
    assert problem.hint == "a name that says what is packed, such as a.csv.gz"


def test_huge_rows_are_read(folder):
    made = [("x" * 300_000, "no"), ("y\n" * 50_000, "yes")]
    assert load(folder / "rows.csv", as_csv(made)) == made


def test_a_file_of_lone_carriage_returns_has_lines(folder):
    assert load(folder / "rows.csv", b"text,label\ra,no\rb,yes\r") == [("a", "no"), ("b", "yes")]
    error = load(folder / "rows.csv", b"text,label\ra,no\r,yes\r")
    assert error.problems[0].where.endswith(":3")
