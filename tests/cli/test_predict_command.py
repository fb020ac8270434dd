import io
import json
from pathlib import Path

import pytest


def test_a_file_gives_a_line_per_line(cli, here, workflow):
    (here / "texts.txt").write_text("a fine film\n\nfirst\tsecond\tthird\r\n", encoding="utf-8-sig")
    ran = cli("predict", "runs/a", "texts.txt", "--weights", "best", "--rank", "2")
    assert workflow.call[1] == (Path("runs/a"), ["a fine film", "", ("first", "second\tthird")], "best", 2)
    assert ran.out == "positive\t0.8750\n" * 3


def test_standard_input_is_read(cli, here, workflow, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo"))
    data = json.loads(cli("predict", "runs/a", "-", "--json").out)
    assert [item["text"] for item in data["predictions"]] == ["one", "two"]
    assert data["predictions"][0]["label"] == "positive"


@pytest.mark.parametrize("content", [b"", b"caf\xe9"])
def test_nothing_to_read_and_no_text_are_one_clear_error(cli, here, workflow, content):
    (here / "texts.txt").write_bytes(content)
    ran = cli("predict", "runs/a", "texts.txt")
    assert (ran.code, ran.out) == (2, "")
    assert "texts.txt" in ran.err


def test_a_missing_file_is_told_before_anything_is_loaded(cli, here, workflow):
    ran = cli("predict", "runs/a", "texts.txt")
    assert ran.code == 2
    assert "no such file" in ran.err
    assert workflow.calls == []
