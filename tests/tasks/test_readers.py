import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorakit.errors import DataError
from lorakit.tasks.json_rows import read_jsonl
from lorakit.tasks.parquet import read_parquet
from lorakit.tasks.readers import read_csv, read_tsv
from lorakit.tasks.table import no_column, whole


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_with_byte_order_mark_crlf_quotes_and_blank_lines(tmp_path):
    table = whole(
        read_csv(
            write(tmp_path / "a.csv", '\ufefftext,label\r\n"one, ""two""",1\r\n\r\n"three\r\nfour",0\r\nfive,1\r\n')
        )
    )
    assert table.columns == {"text": ['one, "two"', "three\r\nfour", "five"], "label": ["1", "0", "1"]}
    assert table.numbers == [2, 4, 6]


def test_tsv_takes_quotes_as_they_are_and_breaks_lines_only_at_line_feeds(tmp_path):
    table = whole(read_tsv(write(tmp_path / "a.tsv", 'text\tlabel\r\n"he said\t1\r\nshe\u2028said"\t0\n')))
    assert table.columns == {"text": ['"he said', 'she\u2028said"'], "label": ["1", "0"]}
    assert table.numbers == [2, 3]


def test_tsv_without_a_header(tmp_path):
    table = whole(read_tsv(write(tmp_path / "a.tsv", "x\t1\ny\t2\n"), ("text", "label")))
    assert table.columns == {"text": ["x", "y"], "label": ["1", "2"]}
    assert table.numbers == [1, 2]


def test_jsonl_and_parquet(tmp_path):
    rows = [{"text": "a", "label": True}, {"text": "b", "extra": 1.5}]
    (table,) = read_jsonl(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n"))
    assert table.columns == {"text": ["a", "b"], "label": [True, None], "extra": [None, 1.5]}
    for number, part in enumerate(("x", "y")):
        pq.write_table(pa.table({"text": [part], "label": [number]}), tmp_path / f"{number}.parquet")
    table = whole(read_parquet(tmp_path / "0.parquet", tmp_path / "1.parquet"))
    assert table.columns == {"text": ["x", "y"], "label": [0, 1]}
    assert (list(table.numbers), table.unit) == ([1, 2], "row")


@pytest.mark.parametrize(
    ("read", "content", "line", "says"),
    [
        (read_csv, "text,label\na,1\nb\n", 3, "1 fields where the header has 2"),
        (read_csv, 'text,label\na,1\n"b,1\nc,1\n', 3, "broken csv"),
        (read_csv, "text,text\na,1\n", 1, "names a column twice: text"),
        (read_csv, b"text,label\ncaf\xe9,1\n", 2, "not UTF-8 text (byte 0xe9)"),
        (read_tsv, "text\tlabel\na\t1\nb\tc\t0\n", 3, "3 fields where the header has 2"),
        (read_jsonl, '{"text": 1}\n{"text":\n', 2, "broken JSON"),
        (read_jsonl, '{"text": 1}\n[1]\n', 2, "not a JSON object"),
    ],
)
def test_broken_files_are_told_with_their_line(tmp_path, read, content, line, says):
    path = write(tmp_path / "bad", content)
    with pytest.raises(DataError) as caught:
        whole(read(path))
    assert caught.value.problems[0].where == f"{path}:{line}"
    assert says in caught.value.problems[0].what


@pytest.mark.parametrize("read", [read_csv, read_tsv, read_jsonl])
def test_an_empty_file_is_told(tmp_path, read):
    with pytest.raises(DataError, match="the file is empty"):
        whole(read(write(tmp_path / "empty", "")))


def test_what_is_no_parquet_is_told(tmp_path):
    with pytest.raises(DataError, match="not a readable parquet file"):
        whole(read_parquet(write(tmp_path / "a.parquet", "text")))


def test_many_broken_rows_are_counted_and_the_first_few_named(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n" + "x\n" * 9)
    with pytest.raises(DataError, match="lines 2, 3, 4, 5, 6 and 4 more"):
        whole(read_tsv(path))


def test_an_unknown_column_is_told_with_the_nearest_and_all():
    (problem,) = no_column("a.csv", "txt", ["text", "label"], "task.text").problems
    assert (problem.key, problem.valid, problem.hint) == ("task.text", "text, label", "did you mean 'text'?")


def test_a_tsv_that_is_none_is_recognised(tmp_path):
    table = whole(read_tsv(write(tmp_path / "a.tsv", "text;label\na;1\n")))
    with pytest.raises(DataError, match="separated by ';'"):
        table.column("text")
