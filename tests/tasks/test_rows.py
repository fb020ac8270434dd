import random

import pytest
from support.hostile.made_up_files import KINDS, as_jsonl

from lorakit.errors import DataError
from lorakit.tasks import stored_rows
from lorakit.tasks.data_files import find_files
from lorakit.tasks.rows import Columns

MADE = [(f"text {i}, {'long ' * (i % 7)}", random.Random(i).choice(["no", "yes", "maybe"])) for i in range(2500)]
COLUMNS = Columns(("text",), "label")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(stored_rows, "LARGE", 1)
    return tmp_path / "cache"


@pytest.fixture
def gathered(monkeypatch):
    """How often a file was read rather than its rows found."""
    calls = []
    gather = stored_rows.gather
    monkeypatch.setattr(stored_rows, "gather", lambda *args, **more: calls.append(args) or gather(*args, **more))
    return calls


def read(path, columns):
    return stored_rows.read_rows(find_files(str(path), "task.train"), columns)


def plain(found):
    labels = [found.labels.names[code] for code in found.labels.codes]
    return found.names, found.texts.to_pydict(), labels, found.numbers.tolist(), found.idx.tolist(), found.unit


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_is_read_once_and_gives_the_rows_of_a_small_one(tmp_path, cache, gathered, monkeypatch, kind):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(KINDS[kind].write(MADE))
    first, again = read(path, COLUMNS), read(path, COLUMNS)
    assert len(gathered) == 1
    monkeypatch.setattr(stored_rows, "LARGE", 2**60)
    small = read(path, COLUMNS)
    assert plain(first) == plain(again) == plain(small)
    names, texts, labels, numbers, idx, unit = plain(small)
    assert (names, unit) == (("text", "label"), "row" if "parquet" in kind else "line")
    assert list(zip(texts["text"], labels, strict=True)) == MADE
    start = 1 if "parquet" in kind or KINDS[kind].plain is as_jsonl else 2
    assert (numbers, idx) == (list(range(start, 2500 + start)), list(range(2500)))


def test_what_decides_is_in_the_key(tmp_path, cache, gathered):
    path = tmp_path / "rows.csv"
    path.write_text("text,other,label,number\na,b,yes,1\nc,d,no,2\n")
    for columns in (
        COLUMNS,
        Columns(("other",), "label"),
        Columns(("text", "other"), "label"),
        Columns(("text",), "number"),
        Columns(("text",), "number", regression=True),
    ):
        for _ in range(2):
            found = read(path, columns)
    assert len(gathered) == 5
    assert found.labels.tolist() == [1.0, 2.0]
    path.write_text("text,other,label,number\na,b,yes,1\nc,d,no,3\n")
    assert read(path, columns).labels.tolist() == [1.0, 3.0]


def test_a_copy_elsewhere_is_known_and_told_by_its_own_name(tmp_path, cache, gathered):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text,label\na,yes\n")
        found = read(tmp_path / name, COLUMNS)
    assert len(gathered) == 1
    assert found.refuse([0], "wrong").problems[0].where == f"{tmp_path / 'b.csv'}:2"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, cache, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,yes\n")
    save = stored_rows.save
    monkeypatch.setattr(stored_rows, "save", lambda *args: [save(*args), path.write_text("text,label\nb,yes\n")])
    with pytest.raises(DataError, match="was changed while it was read"):
        read(path, COLUMNS)
    assert list(cache.iterdir()) == []


def test_a_test_file_without_labels_stays_without_through_the_cache(tmp_path, cache):
    path = tmp_path / "rows.csv"
    path.write_text("text\na\n")
    for regression in (False, True):
        columns = Columns(("text",), "label", regression=regression, label_optional=True)
        assert read(path, columns).labels is None
        assert read(path, columns).labels is None
