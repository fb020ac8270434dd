"""Two lists of label names as one order: which of theirs is which of ours."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.tasks.labels import fold, written

SHOWN_NAMES = 10


def order_by_name(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """For each of ``ours`` the place of the same label in ``theirs``; None where the names are not the same, each once.

    Labels are compared as data compares them (1 and 1.0 are one label, and so are True and true), and where that leaves a difference
    without regard to capitals, unless a list tells two labels apart by these alone.

    Example:
        >>> order_by_name(["positive", "negative"], ["negative", "positive"])
        [1, 0]
        >>> order_by_name(["LABEL_0", "LABEL_1"], ["negative", "positive"]) is None
        True
    """
    if list(theirs) == list(ours):
        return [*range(len(ours))]
    for alike in (as_data, str.casefold):
        places = {alike(name): place for place, name in enumerate(theirs)}
        wanted = [alike(name) for name in ours]
        if len(places) == len(theirs) == len(ours) == len({*wanted}) and places.keys() == {*wanted}:
            return [places[name] for name in wanted]
    return None


def as_data(name: str) -> str:
    """What a label's name is compared by in data."""
    return fold(written(name) or name)


def told(names: Sequence[str]) -> str:
    """A list of names for people: all of them, or the first ones and how many there are."""
    more = f", ... ({len(names)} names)" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more if names else "a number"
