"""What an experiment is asked for: the arguments that ``compare`` and ``sweep`` share, written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ParamSpec, TypeVar

from lorakit.errors import UsageError, command_line
from lorakit.recipe.load import AnyRecipe, LoadedRecipe
from lorakit.recipe.overlays import as_list
from lorakit.training.hooks import Hook
from lorakit.workflow.accelerator import this_process

P = ParamSpec("P")
Asked = TypeVar("Asked")
Found = TypeVar("Found")

SEVERAL = {"arms", "overrides", "kinds", "slurm"}

Watch = Callable[[], AbstractContextManager[Hook]]


def unwatched() -> AbstractContextManager[Hook]:
    """A context that shows nothing."""
    return nullcontext(Hook())


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of every experiment.

    seeds: a run each, of every recipe or point; folder: where the runs are, which several workers may share; metric: another one of
    the task's; wait: for what other workers train; table: a csv file to write, a line for each run; offline: as ``run.offline=true``;
    watch: makes the hook that shows a training's progress, as a context; workers: processes that share the runs, on this machine this
    one among them, one for each GPU by default; on: what starts them elsewhere, ray or slurm; slurm: KEY=VALUE of its jobs. None: the
    experiment's own.
    """

    seeds: Sequence[int] | None = None
    folder: str | Path | None = None
    metric: str | None = None
    wait: bool = True
    table: str | Path | None = None
    offline: bool = False
    workers: int | None = None
    on: str | None = None
    slurm: Sequence[str] = ()
    watch: Watch = unwatched

    def __post_init__(self) -> None:
        """One text or path where several may stand is the only one. Raises UsageError where there would be nothing to train."""
        for name in SEVERAL & {field.name for field in fields(self)}:
            object.__setattr__(self, name, as_list(getattr(self, name)))
        if self.seeds is not None and not len(self.seeds):
            raise UsageError("there are no seeds", where="seeds", valid="one or more, such as 0, 1, 2")

    def again(
        self, command: str, recipes: Sequence[AnyRecipe], overrides: Sequence[str], more: Mapping[str, object]
    ) -> str:
        """The command line that asks for the same and so goes on; more: option -> value, where it is not None."""
        if any(isinstance(recipe, LoadedRecipe) for recipe in recipes):
            return "the same call again"
        words = [*map(str, recipes), *overrides, *(["--offline"] if self.offline else [])]
        words += [word for option in self.slurm for word in ("--slurm-option", option)]
        shared = {"--seeds": self.seeds, "--folder": self.folder, "--metric": self.metric, "--csv": self.table}
        return with_options(command, words, {**shared, "--workers": self.workers, "--on": self.on, **more})


def called_with(request: Callable[P, Asked]) -> Callable[[Callable[[Asked], Found]], Callable[P, Found]]:
    """Make a function of a request one that takes the request's arguments: they, their types and defaults stand in the request alone."""

    def decorate(function: Callable[[Asked], Found]) -> Callable[P, Found]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Found:
            return function(request(*args, **kwargs))

        returned = inspect.signature(function).return_annotation
        call.__signature__ = inspect.signature(request).replace(return_annotation=returned)  # type: ignore[attr-defined]
        return call

    return decorate


def check_alone() -> None:
    """Raises UsageError in a launch of several processes."""
    if this_process().num_processes > 1:
        raise UsageError(
            "an experiment is made by one process, and this is a launch of several",
            hint="the same command several times: workers on one folder share its runs",
        )


def with_options(name: str, words: Sequence[str], options: Mapping[str, object]) -> str:
    """``lorakit NAME WORDS OPTIONS``: of the options, those that are given; a sequence has commas between its items."""
    given = {option: value for option, value in options.items() if value is not None}
    return command_line(name, *words, *(text for option, value in given.items() for text in (option, spelt(value))))


def spelt(value: object) -> str:
    """An option's value as it is typed."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple, range)) else str(value)
