"""The command line, given anything: exit code 0, 1 or 2, data or one message, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st
from support.hostile.effort import efforts, try_all
from support.hostile.made_up_recipes import overrides, texts

from lorakit.cli.app import main

WORDS = st.one_of(
    st.sampled_from(
        [
            "--json",
            "--help",
            "--model",
            "-x",
            "--",
            "",
            "demo",
            "recipe.yaml",
            ".",
            "/",
            "/dev/null",
            "lora",
            "gradnorm",
            "nothing",
            "\x1b[2J",
            "é",
            "a=b",
        ]
    ),
    st.text(max_size=6),
)
COMMANDS = [
    "show",
    "list",
    "copy",
    "eval",
    "merge",
    "report",
    "export",
    "import",
    "combine",
    "compress",
    "quantize",
    "predict",
    "compare",
    "nonsense",
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lorakit"])
    return tmp_path


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and standard output of a command, after a look at what it said."""
    code = main([*arguments])
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), arguments
    assert "Traceback" not in err
    assert "\x1b[2J" not in err
    assert (code == 0) or err.strip(), arguments
    return code, out


@efforts(few=12)
def test_showing_any_recipe(effort, here, capsys):
    def check(made: tuple[bytes, list[str], bool]) -> None:
        text, given, as_json = made
        Path("recipe.yaml").write_bytes(text)
        plain = [word for word in given if not word.startswith("-")]
        code, out = ran(capsys, "show", "recipe.yaml", *plain, *(["--json"] if as_json else []))
        if code == 0 and as_json:
            assert set(json.loads(out)) >= {"model", "task", "adapter"}

    try_all(effort, st.tuples(texts, st.just([]) | overrides, st.booleans()), check)


@efforts(few=12)
def test_any_words(effort, here, capsys):
    def check(made: tuple[str, list[str]]) -> None:
        command, words = made
        ran(capsys, command, *(word for word in words if word not in ("demo", "-")))

    try_all(effort, st.tuples(st.sampled_from(COMMANDS), st.lists(WORDS, max_size=3)), check)
