"""MoLORA (Zadouri et al. 2023): ten LoRAs of rank 4 and a router on every projection, all starting N(0, 0.02^2) but B."""

import torch
from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.recipe.schema import AdapterSection

test_contract = contract("molora", parameters=lambda rank, inside, outside: 10 * (rank * (inside + outside) + inside))


def test_it_starts_small(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="molora"))
    deltas = [adapter.delta for adapter in adapted.adapters.values()]
    for name in ("A", "R"):
        drawn = torch.cat([delta.get_parameter(name).flatten() for delta in deltas])
        assert abs(drawn.std() / 0.02 - 1) < 0.05
        assert abs(drawn.mean()) < 0.001
    assert {len(delta.R) for delta in deltas} == {10}
    assert {delta.rank for delta in deltas} == {4}
