"""GLoRA's search among the allocators: what it says of itself, and that no training has it. What it does: tests/workflow/glora."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.search.scene import Scene

from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import allocators, comes_before_training


def test_it_alone_comes_before_the_training() -> None:
    assert [name for name, kind in allocators.items() if kind.before_training] == ["glora"]
    assert comes_before_training(SearchSection(method="glora"))
    assert not comes_before_training(SearchSection(method="heterolora"))
    assert not comes_before_training(SearchSection())


def test_it_cannot_be_made_for_a_training(make: Callable[..., Scene]) -> None:
    with pytest.raises(
        RecipeError, match="'glora' is no search during a training: it finds the recipe to train"
    ) as told:
        make("bert", targets=["q"]).allocator(method="glora", enable=1.0)
    (problem,) = told.value.problems
    assert problem.key == "search.method"
    assert problem.valid.split(", ")[0] == "none"
    assert "glora" not in problem.valid.split(", ")
    assert problem.hint == "lorakit search RECIPE --method glora"


@pytest.mark.parametrize(
    ("name", "default", "accepted", "refused"),
    [
        ("population", 50, "2", "1"),
        ("generations", 20, "1", "0"),
        ("parents", 10, "1", "0"),
        ("mutation", 0.2, "1", "0"),
        ("mutation", 0.2, "1e-9", "1.01"),
        ("holdout", 0.1, "0.99", "1"),
        ("holdout", 0.1, "0.01", "0"),
        ("min_parameters", 0, "0", "-1"),
    ],
)
def test_its_settings(name: str, default: Any, accepted: str, refused: str) -> None:
    kind = allocators.get("glora")
    assert kind.settings_from({})[name] == default
    assert kind.settings_from({name: accepted})[name] == type(default)(accepted)
    with pytest.raises(RecipeError, match=f"{name}: {refused} cannot be used here"):
        kind.settings_from({name: refused})
