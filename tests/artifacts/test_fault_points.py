"""Fault points: known names, nothing where nobody is told, and every beginning with its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lorakit.artifacts import fault_points
from lorakit.artifacts.fault_points import FaultPoint


class Told:
    """An injector that remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def enter(self, point: str, about: tuple[Any, ...]) -> None:
        self.seen.append(("enter", point, *about))

    def leave(self, point: str) -> None:
        self.seen.append(("leave", point))


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    fault_points.install(told)
    yield told
    fault_points.install(None)


@FaultPoint("step")
def step(number: int) -> int:
    """A step."""
    with FaultPoint("half a record", number):
        return 1 // number


def test_functions_and_blocks_are_told_of(told: Told):
    assert step(1) == 1
    inner = [("enter", "half a record", 1), ("leave", "half a record")]
    assert told.seen == [("enter", "step"), *inner, ("leave", "step")]
    assert (step.__name__, step.__doc__) == ("step", "A step.")


def test_what_fails_is_over_too(told: Told):
    with pytest.raises(ZeroDivisionError):
        step(0)
    assert [seen[:2] for seen in told.seen[-2:]] == [("leave", "half a record"), ("leave", "step")]


def test_a_training_tells_nobody():
    assert fault_points.installed is None
    assert step(1) == 1


def test_a_point_that_is_not_in_the_list_is_an_error():
    with pytest.raises(ValueError, match="there is no fault point 'lunch': training, "):
        FaultPoint("lunch")
