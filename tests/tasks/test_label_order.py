"""Label names of two lists as one order."""

from __future__ import annotations

import pytest

from lorakit.tasks.label_order import order_by_name, told


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        (["a", "b", "c"], ["a", "b", "c"], [0, 1, 2]),
        (["a", "b", "c"], ["c", "a", "b"], [2, 0, 1]),
        (["1.0", "0.0"], ["0", "1"], [1, 0]),
        (["True", "FALSE"], ["false", "true"], [1, 0]),
        (["POSITIVE", "Negative"], ["negative", "positive"], [1, 0]),
        (["A", "a"], ["a", "A"], [1, 0]),
        (["A", "a"], ["a", "b"], None),
        (["A", "a", "b"], ["a", "a", "B"], None),
        (["LABEL_0", "LABEL_1"], ["0", "1"], None),
        (["a", "b"], ["a", "b", "c"], None),
        (["a", "a"], ["a", "b"], None),
        (["a", "a"], ["a", "a"], [0, 1]),
        ([], [], []),
        ([], ["a", "b"], None),
    ],
)
def test_the_same_names_are_one_order(theirs: list[str], ours: list[str], order: list[int] | None) -> None:
    assert order_by_name(theirs, ours) == order


def test_a_long_list_is_cut() -> None:
    assert told([str(n) for n in range(77)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (77 names)"
    assert told(["b", "a"]) == "b, a"
    assert told([]) == "a number"
