"""The axes as plain data: scales, and options read as their types."""

from __future__ import annotations

import math

import pytest

from lorakit.adapters.spec import SCALES, read_options
from lorakit.errors import RecipeError


def test_scales() -> None:
    values = {name: rule(6.0, 9) for name, rule in SCALES.items()}
    assert values == {"lora": 6 / 9, "rslora": 6 / math.sqrt(9), "constant": 6.0, "none": 1.0}


def test_options_are_read_as_their_types() -> None:
    assert read_options("bank", {"vectors": "7"}) == {"vectors": 7}
    assert read_options("prefix", {"std": "0.5"}) == {"std": 0.5}
    assert read_options("glora", {"A": "scalar"}) == {"A": "scalar"}
    assert read_options("subspace", {"per_layer": "false"}) == {"per_layer": False}


def test_every_wrong_option_is_told() -> None:
    with pytest.raises(RecipeError) as caught:
        read_options("bank", {"vectors": "0", "lenght": "4", "top": "two"}, "here")
    with pytest.raises(RecipeError, match="true or false"):
        read_options("subspace", {"per_layer": "no"})
    unknown, *wrong = caught.value.problems
    assert (unknown.key, unknown.valid) == ("here", "vectors, length, top")
    assert "length" in unknown.hint
    assert [problem.valid for problem in wrong] == ["a whole number at least 1"] * 2
