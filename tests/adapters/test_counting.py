"""What adapters cost in parameters, by closed formulas."""

from __future__ import annotations

import pytest

from lorakit.adapters.counting import costs, count_parameters
from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

INSIDE, OUTSIDE, RANK = 5, 7, 3
SITES = [
    Site("a", 0, "q", 10, 10, "linear"),
    Site("b", 0, "up", 10, 40, "linear"),
    Site("c", 0, "res1", 10, 10, "shortcut"),
    Site("d", 1, "down", 40, 10, "conv1d"),
]
SECTION = AdapterSection(rank=4, shortcut_rank=2)
COSTS = {"a": 4 * 20, "b": 4 * 50, "c": 2 * 20, "d": 4 * 50}


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({}, RANK * (INSIDE + OUTSIDE)),
        ({"trainable": "B"}, RANK * OUTSIDE),
        ({"trainable": "A", "init": "pissa"}, RANK * INSIDE),
        ({"decomposition": "magnitude"}, RANK * (INSIDE + OUTSIDE) + OUTSIDE),
        ({"decomposition": "magnitude", "trainable": "B"}, RANK * OUTSIDE),
        ({"decomposition": "magnitude", "trainable": "B+magnitude"}, RANK * OUTSIDE + OUTSIDE),
    ],
)
def test_count_is_the_closed_formula(axes: dict[str, str], expected: int) -> None:
    spec = resolve(AdapterSection(**axes))  # type: ignore[arg-type]
    assert count_parameters(spec, Site("m", 0, "q", INSIDE, OUTSIDE, "linear"), RANK) == expected
    assert count_parameters(spec, Site("m", 0, "q", INSIDE, OUTSIDE, "linear"), 0) == 0


def test_costs_are_the_closed_formula_at_each_sites_rank() -> None:
    linear, shortcut = resolve(SECTION), shortcut_spec(SECTION)
    assert costs(SITES, linear, shortcut) == COSTS
    assert costs(SITES, linear, shortcut, {"b": 1, "c": 5}) == COSTS | {"b": 50, "c": 100}
