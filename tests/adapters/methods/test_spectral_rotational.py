"""Spectral Adapter, rotational (Zhang and Pilanci 2024): two skew matrices a site."""

from __future__ import annotations

import pytest
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

test_contract = contract("spectral_rotational", parameters=lambda rank, inside, outside: rank * (rank - 1))


def test_a_rank_of_one_has_nothing_to_rotate(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="a rotation needs a rank of 2 or more"):
        adapt(fresh("bert"), AdapterSection(method="spectral_rotational", rank=1))
