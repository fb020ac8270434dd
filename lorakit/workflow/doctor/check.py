"""One row of ``lorakit doctor``: what was looked at, what was found, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lorakit.errors import LorakitError
from lorakit.workflow.setup import Result

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Finding:
    """What a look has shown; advice: what to do about it."""

    detail: str
    verdict: str = OK
    advice: str = ""


@dataclass(frozen=True)
class Check(Result):
    """A finding under the name of what was looked at."""

    check: str
    verdict: str
    detail: str
    advice: str


def check(name: str, look: Callable[[], Finding]) -> Check:
    """What ``look`` finds; whatever it raises is a failure, not the end of the examination."""
    try:
        found = look()
    except LorakitError as error:
        first = error.problems[0]
        place = f"{first.where}: " if first.where else ""
        found = Finding(place + first.what, FAILED, first.hint)
    except Exception as error:
        found = Finding(f"{type(error).__name__}: {error}", FAILED)
    return Check(name, found.verdict, found.detail, found.advice)
