"""Named places of the code in which a process may be killed on purpose, to see that a run goes on from there. Elsewhere they do nothing.

    @FaultPoint("step")                                  # every call of this function is one
    def step(...): ...

    with FaultPoint("half a record", path, record):      # a block is one; path and record: what is about to be written
        append_json(path, record)

`lorakit.workflow.doctor.faults` installs the injector that ends its process in one of them.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import Any, Protocol

POINTS = {
    "training": "the whole loop",
    "resuming": "a checkpoint is loaded",
    "step": "one optimiser step",
    "tick": "the search decides",
    "evaluation": "the validation splits are scored, and the best adapter is saved",
    "checkpoint": "a checkpoint is written",
    "checkpoint's tensors": "one of its files of tensors",
    "adapter's tensors": "one of an adapter's files of tensors",
    "last adapter": "the adapter of the last epoch is saved",
    "figures": "the run's figures are drawn",
    "summary": "the last file of a run: with it the run is finished",
    "evolution": "all generations of GLoRA's search",
    "configuration": "one configuration is scored",
    "found run": "the best configuration is written as a run",
    "naming": "what was written beside its place is about to take it",
    "removing": "a folder is deleted",
    "half a record": "a line of metrics.jsonl or timeline.jsonl",
    "half a generation": "a line of generations.jsonl",
}
"""Every point there is, and what happens there."""


class Injector(Protocol):
    """What is told of every point."""

    def enter(self, point: str, about: tuple[Any, ...]) -> None:
        """The point begins. about: what its place in the code says about it."""

    def leave(self, point: str) -> None:
        """The point is over, in whichever way."""


installed: Injector | None = None


def install(injector: Injector | None) -> None:
    """From now on ``injector`` is told of every point of this process; None: nobody is."""
    global installed
    installed = injector


class FaultPoint(ContextDecorator):
    """A function or a block that the injector is told of. ValueError for a name that is not in POINTS."""

    def __init__(self, name: str, *about: Any):
        if name not in POINTS:
            raise ValueError(f"there is no fault point '{name}': {', '.join(POINTS)}")
        self.name, self.about = name, about

    def __enter__(self) -> None:
        if installed is not None:
            installed.enter(self.name, self.about)

    def __exit__(self, *error: object) -> None:
        if installed is not None:
            installed.leave(self.name)
