"""Done or not done, never half."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from lorakit.artifacts.files import append_json, folder, read_json, read_jsonl, write_json, write_jsonl, write_text
from lorakit.errors import RunError


def test_a_folder_appears_whole(tmp_path: Path):
    with folder(tmp_path / "deep" / "target") as place:
        (place / "a").write_text("new")
        assert not (tmp_path / "deep" / "target").exists()
    assert (tmp_path / "deep" / "target" / "a").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target"]


def test_a_folder_is_replaced_whole(tmp_path: Path):
    for name in ("old", "new"):
        with folder(tmp_path / "target") as place:
            (place / name).touch()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def fail(after: Callable[[], None], error: type[BaseException]) -> NoReturn:
    after()
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]):
    with folder(tmp_path / "target") as place:
        (place / "old").touch()
    with pytest.raises(error), folder(tmp_path / "target") as place:
        fail((place / "new").touch, error)
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_what_an_earlier_kill_left_behind_is_no_hindrance(tmp_path: Path):
    for name in (".target.partial", ".target.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rubbish").touch()
    (tmp_path / "target").mkdir()
    with folder(tmp_path / "target") as place:
        (place / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "new"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_a_run_error(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / "file", "text")


def test_a_path_through_a_file_is_a_run_error(tmp_path: Path):
    (tmp_path / "file").touch()
    for attempt in (lambda path: write_text(path, ""), lambda path: append_json(path, 1), open_folder):
        with pytest.raises(RunError, match="cannot be written") as caught:
            attempt(tmp_path / "file" / "inside")
        assert caught.value.problems[0].where == str(tmp_path / "file" / "inside")


def open_folder(path: Path) -> None:
    with folder(path):
        pass


def test_text_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_two_processes_may_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace = os.replace

    def when_another_is_done(source: Path, target: Path) -> None:
        with monkeypatch.context() as other:
            other.setattr(os, "replace", replace)
            other.setattr(os, "getpid", lambda: 1)
            write_text(tmp_path / "file", "theirs")
        replace(source, target)

    monkeypatch.setattr(os, "replace", when_another_is_done)
    write_text(tmp_path / "file", "ours")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["ours"]


def test_json_there_and_back(tmp_path: Path):
    value = {"text": "naïve \u2028", "numbers": [1, 0.1, 1e-300], "nothing": None}
    write_json(tmp_path / "file", value)
    assert read_json(tmp_path / "file") == value
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", float("nan"))
    assert read_json(tmp_path / "file") == value


def test_broken_json_is_a_run_error(tmp_path: Path):
    with pytest.raises(RunError, match=r"summary\.json is missing"):
        read_json(tmp_path / "summary.json")
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="cannot be read as JSON"):
        read_json(tmp_path / "file")


def test_lines_there_and_back(tmp_path: Path):
    records = [{"text": "line one\u2028line two\x0cline three"}, [1, 2], None]
    for record in records:
        append_json(tmp_path / "file", record)
    assert read_jsonl(tmp_path / "file") == records
    write_jsonl(tmp_path / "file", records[:2])
    assert read_jsonl(tmp_path / "file") == records[:2]
    assert read_jsonl(tmp_path / "absent") == []


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_last_line_cut_short_is_left_out(tmp_path: Path, cut: int):
    lines = "".join(json.dumps({"step": step}) + "\n" for step in (1, 22))
    (tmp_path / "file").write_text(lines[:-cut])
    expected = [{"step": 1}] if cut > 1 else [{"step": 1}, {"step": 22}]  # without its newline alone it is whole
    assert read_jsonl(tmp_path / "file") == (expected if cut < 14 else [{"step": 1}])
