import logging
import shlex
import sys

from rich.text import Text

from lorakit.cli import output
from lorakit.cli.output import listening, say, warn, write


def test_what_the_library_logs_is_talk(capsys):
    logger = logging.getLogger("lorakit")
    with listening():
        logger.info("reading [%s]", "mrpc")
        logger.warning("one row is empty")
    logger.info("nobody listens")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "reading [mrpc]\nwarning: one row is empty\n")


def test_a_command_talks_as_the_library_does(capsys):
    with listening():
        say("100 % [done]")
        warn("one row is empty")
    assert capsys.readouterr() == ("", "100 % [done]\nwarning: one row is empty\n")


def test_quiet_keeps_warnings(capsys):
    with listening(quiet=True):
        logging.getLogger("lorakit").info("reading")
        logging.getLogger("lorakit").warning("one row is empty")
        say("hello")
        warn("a label is missing")
    assert capsys.readouterr().err == "warning: one row is empty\nwarning: a label is missing\n"


def test_listening_leaves_the_logger_as_it_was():
    logger = logging.getLogger("lorakit")
    before = (list(logger.handlers), logger.level, logger.propagate)
    with listening():
        pass
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_data_in_a_pipe_has_no_colour_no_markup_no_folding_and_no_trailing_space(capsys):
    write("[bold]a[/bold] " + "long " * 60, Text("red  ", style="red"))
    assert capsys.readouterr().out == ("[bold]a[/bold] " + "long " * 60).rstrip() + "\nred\n"


def test_the_lines_to_type_next_begin_as_the_person_began(monkeypatch, tmp_path):
    for name in ("bin", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lorakit").write_text("#!/bin/sh\n")
        (tmp_path / name / "lorakit").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "orig_argv", ["my venv/bin/python", "-m", "lorakit", "train"])
    for called, expected in (
        (str(tmp_path / "bin" / "lorakit"), "lorakit"),
        (str(tmp_path / "elsewhere" / "lorakit"), shlex.quote(str(tmp_path / "elsewhere" / "lorakit"))),
        ("/it's mine/lorakit", "'/it'\"'\"'s mine/lorakit'"),
        ("/any/where/lorakit/__main__.py", "'my venv/bin/python' -m lorakit"),
        ("/any/where/pytest/__main__.py", "lorakit"),
        ("a_notebook.py", "lorakit"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert output.program() == expected
        assert shlex.split(output.next_line("train", "my run", "ü=1"))[-3:] == ["train", "my run", "ü=1"]
