"""The envelope of every command: what is set up before it, who hears its talk, and its result as JSON or in words.

    def merge(run: NewestRun = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
        with envelope(quiet=quiet):
            answer(lorakit.merge(given_or_newest(run)), tell, as_json=as_json)

A command's file has its parameters with their help, one call of the Python API, and ``tell``, which writes the result for people.
``import lorakit`` is quick: what a public function needs is imported when it is first looked up, and that is in the envelope.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from lorakit.cli.output import listening, write_json


class AsDict(Protocol):
    """A result of the Python API."""

    def to_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""


R = TypeVar("R", bound=AsDict | Mapping[str, Any])


@contextmanager
def envelope(*, offline: bool = False, quiet: bool = False) -> Iterator[None]:
    """What surrounds a command: the network is off where it is ``offline``, and talk is printed unless it is ``quiet``."""
    before_imports(offline=offline, quiet=quiet)
    with listening(quiet=quiet):
        yield


def before_imports(*, offline: bool, quiet: bool) -> None:
    """Tell the Hugging Face libraries, which read this as they are imported, what the person wants.

    ``offline`` switches them off the network too. Their own progress bars are for terminals, and not for ``quiet`` ones.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # those of transformers as well
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def answer(result: R, tell: Callable[[R], None], *, as_json: bool) -> None:
    """Print ``result``: as one JSON object, or as ``tell`` writes it for people."""
    if as_json:
        write_json(result if isinstance(result, Mapping) else result.to_dict())
    else:
        tell(result)
