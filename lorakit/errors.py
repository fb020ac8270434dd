"""The one error family a person meets: what happened, where, what is valid, what to try."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake, told in full.

    what: the fact, in one sentence; where: ``file:line`` or a path; key: the recipe key, e.g. ``adapter.rank``;
    valid: what would be accepted; hint: what to try next.
    """

    what: str
    where: str = ""
    key: str = ""
    valid: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        text = visible(f"{place}: {self.what}" if place else self.what)
        if self.valid:
            text += f"\n    valid: {visible(self.valid)}"
        if self.hint:
            text += f"\n    try: {visible(self.hint)}"
        return text


def command_line(*words: object) -> str:
    """``lorakit`` and these words, as a person types them: what their shell would take apart stands in quotes."""
    return shlex.join(["lorakit", *map(str, words)])


class LorakitError(Exception):
    """Any failure that lorakit can explain. The command line prints it and leaves with ``exit_code``."""

    exit_code = 1

    def __init__(self, what: str | Problem | Sequence[Problem], **details: str):
        if isinstance(what, str):
            what = Problem(what, **details)
        self.problems: tuple[Problem, ...] = (what,) if isinstance(what, Problem) else tuple(what)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(LorakitError):
    """The person asked for something that cannot be: a wrong recipe, a wrong option, wrong data."""

    exit_code = 2


class RecipeError(UsageError):
    """Everything that is wrong with a recipe, at once."""


class DataError(UsageError):
    """Data that cannot be used as asked: a missing file or column, a label out of range, an empty set."""


class RunError(LorakitError):
    """A run that cannot go on, or a run folder that cannot be read or written."""


class Interrupted(LorakitError):
    """Training was stopped by the person; the checkpoint is on disk."""

    exit_code = 130


def visible(text: str) -> str:
    """``text`` with control characters and lone surrogates, which a file may have put there, as escapes: none reaches a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def nearest(word: str, choices: Iterable[str]) -> str:
    """``did you mean 'rank'?`` for the closest choice, or an empty string when nothing is close."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""
