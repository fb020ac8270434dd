import logging
import os

import pytest

from lorakit.errors import DataError
from lorakit.tasks.cache import PART, SEAL, STALE, cache_dir, cached


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Build:
    """Writes two files, and counts how often."""

    times = 0

    def __call__(self, folder):
        self.times += 1
        (folder / "a").write_bytes(b"1234")
        (folder / "b").write_bytes(b"")


def contents(key, build):
    with cached(key, build) as place:
        return {path.name: path.read_bytes() for path in place.iterdir() if path.name != SEAL}


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LORAKIT_CACHE_DIR", raising=False)
    assert cache_dir() == tmp_path / "lorakit"
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("LORAKIT_CACHE_DIR", "")
    assert cache_dir() is None


def test_a_user_without_a_home_has_none(monkeypatch):
    """Nor a folder called ``~`` in the current one: what a container's user without a name would get."""
    for name in ("LORAKIT_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert cache_dir() is None


def test_an_entry_is_built_once(folder):
    build = Build()
    assert contents("k", build) == contents("k", build) == {"a": b"1234", "b": b""}
    assert build.times == 1
    contents("other", build)
    assert build.times == 2
    assert sorted(path.name for path in folder.iterdir()) == ["k", "other"]


@pytest.mark.parametrize("damage", ["a", "b", SEAL])
@pytest.mark.parametrize("how", ["changed", "cut", "longer", "gone"])
def test_a_damaged_entry_is_built_again(folder, damage, how):
    build = Build()
    contents("k", build)
    path = folder / "k" / damage
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"changed": b"#" + content[1:], "cut": content[:-1], "longer": content + b"#"}[how])
    changed = how == "gone" or path.read_bytes() != content
    assert contents("k", build) == contents("k", build) == {"a": b"1234", "b": b""}
    assert build.times == 1 + changed


def test_an_entry_under_another_name_is_not_taken(folder):
    build = Build()
    contents("k", build)
    (folder / "k").rename(folder / "other")
    contents("other", build)
    assert build.times == 2


def test_nothing_is_left_of_a_build_that_fails(folder):
    def fail(place):
        (place / "a").write_bytes(b"12")
        raise DataError("a row is wrong")

    with pytest.raises(DataError, match="a row is wrong"), cached("k", fail):
        pytest.fail("there is no entry")
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_one_mistake(folder):
    def fail(place):
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left on device") as caught, cached("k", fail):
        pytest.fail("there is no entry")
    assert "LORAKIT_CACHE_DIR" in caught.value.problems[0].hint
    assert list(folder.iterdir()) == []


def test_two_that_build_the_same_at_once(folder):
    inner = Build()

    def build(place):
        contents("k", inner)
        Build()(place)

    with cached("k", build) as place:
        assert (place / "a").read_bytes() == b"1234"
    assert [path.name for path in folder.iterdir()] == ["k"]
    contents("k", inner)
    assert inner.times == 1


def test_what_killed_processes_left_is_swept_when_it_is_old(folder):
    for name, age in (("old", STALE + 60), ("new", 60)):
        (folder / f"{name}{PART}").mkdir(parents=True)
        past = (folder / f"{name}{PART}").stat().st_mtime - age
        os.utime(folder / f"{name}{PART}", (past, past))
    contents("k", Build())
    assert sorted(path.name for path in folder.iterdir()) == ["k", f"new{PART}"]


def test_without_a_cache_nothing_stays(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build = Build()
    assert contents("k", build) == contents("k", build)
    assert build.times == 2
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(folder))
    contents("", build)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    caplog.set_level(logging.INFO, logger="lorakit")
    build = Build()
    assert contents("k", build) == contents("l", build) == {"a": b"1234", "b": b""}
    (line,) = caplog.messages
    assert f"nothing is cached: {tmp_path / 'file' / 'cache'} cannot be written (Not a directory)" in line
