"""Where words go: data to standard output, talk to standard error, and both only from the main process."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import Interrupted, LorakitError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lorakit.reporting.summary import Passage

PIPE_WIDTH = 1000  # columns of a table where there is no terminal: in a pipe or a file every row keeps to one line

talk = logging.getLogger("lorakit")
"""What the library and the commands say while they work."""
displays: list[Console] = []
"""The console of the display that is live on the terminal, if there is one: talk is printed by it, above the display."""


def main_process() -> bool:
    """Whether this process speaks for all: the first one of a launch on several devices."""
    return os.environ.get("RANK", "0") == "0"


def console(*, talk: bool = False) -> Console:
    """A rich console on standard output, or with ``talk`` on standard error. NO_COLOR is honoured by rich."""
    from rich.console import Console

    stream = sys.stderr if talk else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=talk, highlight=False, width=width, quiet=not main_process())


def write(*data: RenderableType) -> None:
    """Print tables or text on standard output. Text is taken as it is: nothing in it is markup, no line is broken."""
    out = console()
    for item in data:
        with out.capture() as captured:
            out.print(item, markup=False, soft_wrap=isinstance(item, str))
        text = captured.get()
        if not sys.stdout.isatty():
            text = "".join(line.rstrip() + "\n" for line in text.splitlines())
        sys.stdout.write(text)


def write_summary(passages: Iterable[Passage]) -> None:
    """Print what a page says in words."""
    for passage in passages:
        write(passage.title, *(f"  {sentence}" for sentence in passage.sentences), "")


def write_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    if main_process():
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def say(text: str) -> None:
    """A line of talk on standard error, as from the library itself: printed while somebody is ``listening``, and not quietly."""
    talk.info(text)


def warn(text: str) -> None:
    """The same for what a person should know: printed also quietly, and marked as a warning."""
    talk.warning(text)


def next_line(*words: object) -> str:
    """A command line that this person may type next: what their shell would take apart stands in quotes."""
    return f"{program()} {shlex.join(map(str, words))}"


def program() -> str:
    """How this person calls lorakit: by name where the shell finds it, else by its path, or as a module of their Python."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "lorakit":
        return shlex.join([sys.orig_argv[0], "-m", "lorakit"])
    found = shutil.which("lorakit")
    by_path = called.stem == "lorakit" and not (found and Path(found).resolve() == called.resolve())
    return shlex.quote(str(called)) if by_path else "lorakit"


def complain(error: LorakitError) -> None:
    """Print ``error`` on standard error; being interrupted is not called an error."""
    err = console(talk=True)
    if not isinstance(error, Interrupted):
        several = len(error.problems) > 1
        err.print(f"error: {len(error.problems)} problems" if several else "error:", style="bold red", end="")
        err.print("" if several else " ", end="\n" if several else "")
    err.print(str(error), markup=False, soft_wrap=True)


class TalkHandler(logging.Handler):
    """Prints talk (loading the model, the data, tokenising) as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``, warnings marked as such."""
        mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        out = displays[-1] if displays else console(talk=True)
        out.print(mark + record.getMessage(), markup=False, soft_wrap=True)


@contextmanager
def listening(*, quiet: bool = False) -> Iterator[None]:
    """While this lasts, talk is printed on standard error: warnings only, when ``quiet``."""
    handler, level, propagate = TalkHandler(), talk.level, talk.propagate
    talk.addHandler(handler)
    talk.setLevel(logging.WARNING if quiet else logging.INFO)
    talk.propagate = False
    try:
        yield
    finally:
        talk.removeHandler(handler)
        talk.setLevel(level)
        talk.propagate = propagate
