"""What a person sees while a training runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lorakit.cli.output import console, displays, main_process
from lorakit.reporting.tables import scores as scores_text
from lorakit.training.hooks import Hook, TrainState

REDRAWS = 4
"""Times a second."""
GAP = "  "


class Display(Progress):
    """A bar with the steps and the time left, and under it the figures."""

    figures: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then the figures: on as many lines as they need."""
        yield self.make_tasks_table(self.tasks)
        for line in lines_of(self.figures, self.console.width) if self.figures else []:
            yield Text(line, no_wrap=True, overflow="ellipsis")


class ProgressHook(Hook):
    """Shows step, loss, learning rate, scores, sites on, next tick and time left on standard error.

    On a terminal the display is live. Elsewhere a line is printed at about every tenth of the steps, at each evaluation and
    at each tick. With ``quiet``, or on other processes than the first, nothing. Use it as a context manager: however the
    training ends, the terminal is given back.
    """

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet or not main_process()
        self.console = console(talk=True)
        self.display: Display | None = None
        self.bar: TaskID | None = None
        self.printed_tenth = 0
        self.redrawn = 0.0

    def __enter__(self) -> Self:
        """Begin; the display itself opens with the training."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the display."""
        self.close()

    def on_train_begin(self, state: TrainState) -> None:
        """Open the display, or print the first line."""
        if self.quiet:
            return
        self.printed_tenth = tenth(state)
        if not sys.stderr.isatty():
            self.line(f"training {state.total_steps} steps from step {state.step}, {state.steps_per_epoch} an epoch")
            return
        self.display = Display(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            refresh_per_second=REDRAWS,
        )
        self.bar = self.display.add_task("training", total=state.total_steps, completed=state.step)
        displays.append(self.console)
        self.display.start()

    def after_step(self, state: TrainState) -> None:
        """Move the bar, or print a line where another tenth of the steps is done."""
        if self.display is not None and self.bar is not None:
            if time.monotonic() - self.redrawn > 1 / REDRAWS:  # a GPU is waited for, and nobody sees more
                self.redrawn = time.monotonic()
                self.display.figures = figures(state)
            self.display.update(self.bar, completed=state.step)
        elif not self.quiet and tenth(state) > self.printed_tenth:
            self.printed_tenth = tenth(state)
            self.line(f"step {state.step}/{state.total_steps}  {GAP.join(figures(state))}")

    def on_tick(self, state: TrainState) -> None:
        """Tell what the search has just decided."""
        if not self.quiet:
            self.line(f"tick at step {state.step}: {state.sites_on} of {state.sites_total} sites on")

    def on_evaluation(self, state: TrainState) -> None:
        """Tell the scores on the validation split."""
        if not self.quiet:
            self.line(f"epoch {state.epoch:.2f}, step {state.step}: {scores_text(state.scores)}")

    def on_train_end(self, state: TrainState) -> None:
        """Close the display."""
        self.close()

    def line(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the display off the terminal; a second call does nothing."""
        if self.display is not None:
            displays.remove(self.console)
            self.display.stop()
            self.display = None


def tenth(state: TrainState) -> int:
    """How many tenths of the steps are done, 0 to 10."""
    return 10 * state.step // max(state.total_steps, 1)


def figures(state: TrainState) -> list[str]:
    """``epoch 0.40``, ``loss 0.612``, ``lr 4.1e-04``, ``accuracy 0.7412``, ``sites 11/48``, ``next tick 141``, without what is unknown."""
    parts = [f"epoch {state.epoch:.2f}"]
    loss = state.fresh_loss()
    if loss is not None:
        parts.append(f"loss {loss:.3f}")
    parts.append(f"lr {state.lr:.1e}")
    parts += [scores_text({name: value}) for name, value in state.scores.items()]
    if state.sites_total:
        parts.append(f"sites {state.sites_on}/{state.sites_total}")
    if state.next_tick is not None:
        parts.append(f"next tick {state.next_tick}")
    return parts


def lines_of(parts: Sequence[str], width: int) -> list[str]:
    """The parts on lines of at most ``width`` letters; none of them is cut but one that is longer by itself."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(GAP) + len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(part)
    return lines
