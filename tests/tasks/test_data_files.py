"""Shards of one split, by folder or pattern: all of one kind, in the order of their names; and texts without labels."""

import gzip
import logging
import os
import tracemalloc

import pytest
from support.hostile.made_up_files import KINDS
from support.thinned import thinned

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks import stored_rows
from lorakit.tasks.data_files import find_files
from lorakit.tasks.rows import Columns
from lorakit.tasks.sources import load_task

PARTS = [[("a", "no"), ("b\n", "yes")], [("c, d", "no")], [("e;f", "yes"), ('"g"', "no")]]
WHOLE = [row for part in PARTS for row in part]


@pytest.fixture(params=["memory", "cache"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "cache":
        monkeypatch.setattr(stored_rows, "LARGE", 1)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def fill(folder, kind="csv", parts=PARTS):
    for number, rows in enumerate(parts):
        (folder / f"part-{number}.{kind}").write_bytes(KINDS[kind].write(rows))


def load(train, **more):
    section = {"validation": str(train)} | more
    return load_task(TaskSection(name="custom", train=str(train), text="text", label="label", **section), seed=0)


def rows_of(data, split="train"):
    return [(row["text"], data.task.labels[row["label"]]) for row in data.splits[split]]


def problem_of(*args, **more):
    with pytest.raises(DataError) as caught:
        load(*args, **more)
    return caught.value.problems[0]


@pytest.mark.parametrize("kind", [kind for kind, made in KINDS.items() if made.plain is not KINDS["tsv"].plain])
def test_a_folder_of_shards_is_one_split(folder, kind):
    fill(folder, kind)
    for name in (".hidden.txt", "_SUCCESS", "._part-0.csv"):
        (folder / name).write_text("junk")
    for _ in range(2):
        data = load(folder)
        assert rows_of(data) == WHOLE
        assert data.splits["train"]["idx"][:] == [0, 1, 2, 3, 4]
    assert rows_of(load(f"{folder}/part-[12]*")) == WHOLE[2:]


def test_a_wrong_row_is_told_with_its_own_file(folder):
    fill(folder, parts=[*PARTS[:2], [("x", "no"), (" ", "no")], PARTS[2], [(" ", "no")]])
    problem = problem_of(folder)
    assert problem.where == f"{folder / 'part-2.csv'}:3"
    assert problem.what == "2 rows have no text in column 'text', 1 of them in other files (line 3)"


def test_a_shard_without_rows_is_no_harm(folder):
    fill(folder, parts=[[], PARTS[0], [], [], [("x", ""), ("y", "no")], []])
    problem = problem_of(folder)
    assert problem.where == f"{folder / 'part-4.csv'}:2"
    assert problem.what == "1 row has no label in column 'label' (line 2)"


def test_a_shard_without_a_column_of_the_others_is_told(folder):
    fill(folder)
    (folder / "part-1.csv").write_text("text,lable\nx,no\n")
    problem = problem_of(folder)
    assert problem.what == f"{folder / 'part-1.csv'} has no column 'label'"
    assert problem.hint == "did you mean 'lable'?"
    assert load(f"{folder}/part-[02].csv", test=str(folder / "part-1.csv")).splits["test"].column_names == [
        "text",
        "idx",
    ]
    problem = problem_of(f"{folder}/part-[02].csv", test=str(folder))
    assert problem.what == f"{folder / 'part-1.csv'} has no column 'label'"


@pytest.mark.parametrize(
    ("files", "says", "hint"),
    [
        ([], "holds no files", ""),
        ([".hidden"], "holds no files", ""),
        (["a.csv", "b.jsonl"], "holds files of more than one kind: a.csv, b.jsonl", "/*.csv"),
        (["a.csv", "a.csv.gz"], "holds files of more than one kind: a.csv, a.csv.gz", "/*.csv"),
        (["a.csv", "README.md"], "cannot tell what kind of file README.md is", "/*.csv"),
        (["a.csv", "part"], "cannot tell what kind of file part is", "/*.csv"),
        (["a.csv", "b/"], "holds folders, or what is no file: b", "/*.csv"),
        (["train-0.csv", "train-1.csv", "test-0.csv"], "files of several splits: test-0.csv, train-0.csv", "/*train*"),
        (["my_dev.csv", "my_train.csv"], "files of several splits: my_dev.csv, my_train.csv", "/*train*"),
        (["a.txt", "b.txt"], "a text file has no labels: a.txt", "two columns of a csv"),
    ],
)
def test_a_folder_that_is_not_one_split_is_refused(folder, files, says, hint):
    for name in files:
        (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("text,label\na,no\nb,yes\n")
    problem = problem_of(folder)
    assert says in problem.what
    assert problem.key == "task.train"
    assert problem.hint.endswith(hint)
    assert problem.valid


def test_a_pipe_among_the_shards_is_not_waited_for(folder):
    fill(folder)
    os.mkfifo(folder / "part-9.csv")
    assert "what is no file: part-9.csv" in problem_of(folder).what
    assert rows_of(load(f"{folder}/*.csv")) == WHOLE


def test_a_pattern_takes_the_files_of_one_split(folder):
    for name in ("train-1.csv", "train-0.csv", "test-0.csv", "README.md"):
        (folder / name).write_text(f"text,label\n{name},no\n{name},yes\n")
    data = load(f"{folder}/train-*", validation=f"{folder}/test*.csv")
    assert data.splits["train"]["text"][:] == ["train-0.csv"] * 2 + ["train-1.csv"] * 2
    problem = problem_of(f"{folder}/*.csv")
    assert "several splits" in problem.what
    assert "there is no file" in problem_of(f"{folder}/dev-*.csv").what


def test_a_file_whose_name_is_a_pattern_is_that_file(folder):
    for name in ("a[1].csv", "a1.csv"):
        (folder / name).write_text(f"text,label\n{name},no\n{name},yes\n")
    assert load(folder / "a[1].csv").splits["train"]["text"][0] == "a[1].csv"


def test_the_cache_knows_every_shard_and_its_kind(folder, monkeypatch):
    monkeypatch.setattr(stored_rows, "LARGE", 1)
    calls = []
    gather = stored_rows.gather
    monkeypatch.setattr(stored_rows, "gather", lambda *args, **more: calls.append(args) or gather(*args, **more))
    columns = Columns(("text",), "label")

    def read():
        return stored_rows.read_rows(find_files(str(folder), "task.train"), columns).texts.to_pydict()["text"]

    fill(folder)
    assert read() == read() == [text for text, _ in WHOLE]
    assert len(calls) == 1
    (folder / "part-1.csv").rename(folder / "part-3.csv")
    assert read() == ["a", "b\n", "e;f", '"g"', "c, d"]
    (folder / "part-0.csv").unlink()
    assert read() == ["e;f", '"g"', "c, d"]
    (folder / "part-0.csv").write_text("text,label\nz,no\n")
    assert read()[0] == "z"
    assert len(calls) == 4


def test_the_kind_is_in_the_key_of_the_cache(folder, monkeypatch):
    monkeypatch.setattr(stored_rows, "LARGE", 1)
    content = 'text\tlabel\n"a"\tno\n"b"\tyes\n'
    for name in ("a.csv", "a.tsv"):
        (folder / name).write_text(content)
    assert load(folder / "a.csv").splits["train"]["text"][:] == ["a", "b"]
    assert load(folder / "a.tsv").splits["train"]["text"][:] == ['"a"', '"b"']


def test_what_was_said_of_a_file_is_said_again_when_it_comes_from_the_cache(folder, monkeypatch, caplog):
    monkeypatch.setattr(stored_rows, "LARGE", 1)
    fill(folder, "semicolons.csv")
    for _ in range(2):
        caplog.clear()
        caplog.set_level(logging.INFO, logger="lorakit")
        load(folder)
        assert caplog.messages[-1] == f"{folder}: the fields are separated by semicolons"


def test_texts_to_predict_may_be_a_text_file(folder):
    fill(folder)
    (folder / "new").mkdir()
    (folder / "new" / "a.txt").write_text('text,label\none "line",\t1\n;\n')
    data = load(f"{folder}/*.csv", test=str(folder / "new" / "a.txt"))
    assert data.splits["test"].to_list() == [
        {"text": "text,label", "idx": 0},
        {"text": 'one "line",\t1', "idx": 1},
        {"text": ";", "idx": 2},
    ]
    (folder / "new" / "a.txt").write_text("one\n\ntwo\n")
    problem = problem_of(f"{folder}/*.csv", test=str(folder / "new"))
    assert problem.where == f"{folder / 'new' / 'a.txt'}:2"
    assert "no text in column 'text'" in problem.what


def test_a_text_file_of_pairs_has_tabs(tmp_path):
    (tmp_path / "a.csv").write_text("q,r,label\na,b,0\nc,d,1\n")
    (tmp_path / "a.txt").write_text("e\tf\ng, h\ti\n")
    section = TaskSection(
        name="custom",
        train=str(tmp_path / "a.csv"),
        validation=str(tmp_path / "a.csv"),
        test=str(tmp_path / "a.txt"),
        text="q",
        text_pair="r",
        label="label",
    )
    assert load_task(section, seed=0).splits["test"].to_list() == [
        {"text": "e", "text_pair": "f", "idx": 0},
        {"text": "g, h", "text_pair": "i", "idx": 1},
    ]
    (tmp_path / "a.txt").write_text("e\tf\ng\n")
    with pytest.raises(DataError, match=r"a.txt:2: 1 fields where the header has 2"):
        load_task(section, seed=0)


@pytest.mark.parametrize("name", thinned(["rows.csv.gz", "rows.jsonl.gz"], 2))
def test_a_small_packed_file_of_many_rows_is_read_in_little_memory(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    text = "the same words " * 20
    row = f"{text},0\n" if "csv" in name else f'{{"text": "{text}", "label": 0}}\n'
    content = ("text,label\n" if "csv" in name else "") + row * 60_000
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()))
    assert path.stat().st_size < 2**17  # of 18 MB
    tracemalloc.start()
    try:
        rows = stored_rows.read_rows(find_files(str(path), "task.train"), Columns(("text",), "label"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == 60_000
    assert peak < 2**22
    assert rows.texts["text"][59_999].as_py() == text
