"""Long lists of cases of which the default run takes a regular part; all of them run with ``-m 'slow or not slow'``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """The cases as parameters: of ``every`` in a row the first is in the default run, the others are slow."""
    return [as_parameter(case, slow=place % every > 0) for place, case in enumerate(cases)]


def crossed(
    rows: Iterable[Any], columns: Iterable[Any], *, turn: int, most: int | None = None, every: int = 1
) -> list[Any]:
    """All pairs; in the default run each row meets one column, each next row the next one, and the others are slow.

    turn: where the first row begins. Over as many turns as there are columns, every row meets every column; most: columns that a row
    meets at all, its own and those before it, where it is not to meet all of them; every: of so many rows one is in the default run.
    """
    columns = list(columns)
    most = len(columns) if most is None else most
    return [
        as_parameter((row, column), slow=behind > 0 or (down + turn) % every > 0)
        for down, row in enumerate(rows)
        for across, column in enumerate(columns)
        if (behind := (down + turn - across) % len(columns)) < most
    ]


def as_parameter(case: Any, *, slow: bool) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=[pytest.mark.slow] if slow else [])
