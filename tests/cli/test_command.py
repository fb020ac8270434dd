"""The envelope: what is set before libraries are imported, and a result as JSON or in words."""

import json
import os
from types import SimpleNamespace

import pytest

from lorakit.cli.command import answer, envelope
from lorakit.cli.output import say, write

BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


@pytest.fixture
def unset(monkeypatch):
    """The environment without what the envelope sets, and as it was afterwards."""
    for name in ("HF_HUB_OFFLINE", *BARS):
        monkeypatch.setenv(name, "")  # so that the test's own changes are undone
        monkeypatch.delenv(name)


@pytest.mark.parametrize("offline", [False, True])
def test_the_libraries_are_told_before_they_are_imported(unset, offline):
    with envelope(offline=offline):
        assert os.environ.get("HF_HUB_OFFLINE") == ("1" if offline else None)


@pytest.mark.parametrize(
    ("terminal", "quiet", "bars"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_progress_bars_are_for_terminals_that_are_not_quiet(unset, monkeypatch, terminal, quiet, bars):
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal, write=lambda text: None))
    with envelope(quiet=quiet):
        assert [os.environ.get(name) for name in BARS] == [None if bars else "1"] * 2


def test_talk_is_heard_in_the_envelope_only(capsys):
    say("before")
    with envelope():
        say("inside")
    with envelope(quiet=True):
        say("quietly")
    assert capsys.readouterr() == ("", "inside\n")


@pytest.mark.parametrize("result", [{"rank": 4}, SimpleNamespace(to_dict=lambda: {"rank": 4})])
def test_a_result_is_one_json_object_or_what_it_is_told_as(capsys, result):
    answer(result, lambda told: write("as JSON all is silent"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"rank": 4}
    told = []
    answer(result, told.append, as_json=False)
    assert told == [result]
    assert capsys.readouterr().out == ""
