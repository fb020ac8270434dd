"""How many made-up cases a property is tried on: a few each time, some dozens in the slow run, thousands with HOSTILE_CASES=3000."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

MANY = int(os.environ.get("HOSTILE_CASES", "50"))


def cases(number: int, *, fixed: bool) -> settings:
    """So many cases, without a clock; fixed: the same ones every time."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        print_blob=not fixed,
    )


def efforts(few: int) -> pytest.MarkDecorator:
    """The test's argument ``effort``: ``few`` fixed cases by default, ``MANY`` random ones in the slow run."""
    slow = pytest.param(cases(MANY, fixed=False), id="many", marks=pytest.mark.slow)
    return pytest.mark.parametrize("effort", [pytest.param(cases(few, fixed=True), id="few"), slow])


def try_all(effort: settings, strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Call ``check`` on the cases that ``strategy`` makes up."""

    @effort
    @given(strategy)
    def case(made: Any) -> None:
        check(made)

    case()
