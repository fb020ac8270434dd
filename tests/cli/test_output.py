import logging

from rich.text import Text

from lorakit.cli.output import listening, say, write


def test_what_the_library_logs_is_talk(capsys):
    logger = logging.getLogger("lorakit")
    with listening():
        logger.info("reading [%s]", "mrpc")
        logger.warning("one row is empty")
    logger.info("nobody listens")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "reading [mrpc]\nwarning: one row is empty\n")


def test_quiet_keeps_warnings(capsys):
    with listening(quiet=True):
        logging.getLogger("lorakit").info("reading")
        logging.getLogger("lorakit").warning("one row is empty")
        say("hello", quiet=True)
    assert capsys.readouterr().err == "warning: one row is empty\n"


def test_listening_leaves_the_logger_as_it_was():
    logger = logging.getLogger("lorakit")
    before = (list(logger.handlers), logger.level, logger.propagate)
    with listening():
        pass
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_data_in_a_pipe_has_no_colour_no_markup_no_folding_and_no_trailing_space(capsys):
    write("[bold]a[/bold] " + "long " * 60, Text("red  ", style="red"))
    assert capsys.readouterr().out == ("[bold]a[/bold] " + "long " * 60).rstrip() + "\nred\n"
