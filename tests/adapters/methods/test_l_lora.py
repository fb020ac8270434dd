"""L-LoRA (Tang et al. 2023): the tangent of LoRA at its start, by torch's own Jacobian-vector product, is LoRA with A as it started."""

import pytest
import torch
from support.adapters.contract import contract
from torch.func import jvp
from torch.testing import assert_close

from lorakit.adapters.deltas.low_rank import LowRank
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

test_contract = contract("l_lora", parameters=lambda rank, inside, outside: rank * outside)


def test_the_tangent_at_the_start_is_lora_with_the_first_a() -> None:
    """For any later A and B: f(start) + jvp of (now - start) = s B A0 x, and A has no part in it."""
    torch.manual_seed(0)
    spec = resolve(AdapterSection(method="l_lora", rank=3))
    x = torch.randn(4, 6, dtype=torch.float64)
    start = torch.randn(3, 6, dtype=torch.float64), torch.zeros(9, 3, dtype=torch.float64)
    now = tuple(torch.randn_like(tensor) for tensor in start)
    value, tangent = jvp(
        lambda a, b: spec.scale_at(3) * x @ a.T @ b.T, start, tuple(n - s for n, s in zip(now, start, strict=True))
    )
    ours = LowRank(Site("m", 0, "q", 6, 9, "linear"), 3).double()
    with torch.no_grad():
        ours.A.copy_(start[0])
        ours.B.copy_(now[1])
    assert_close(ours(x, spec.scale_at(3)), value + tangent)
    assert [role for role in ("A", "B") if spec.trains(role)] == ["B"]


@pytest.mark.parametrize("init", ["pissa", "orthogonal", "lora_ga"])
def test_where_b_starts_away_from_zero_the_tangent_has_a_part_in_a_and_is_refused(init: str) -> None:
    with pytest.raises(RecipeError, match="no longer be Linearised LoRA") as caught:
        resolve(AdapterSection(method="l_lora", init=init))
    assert [problem.key for problem in caught.value.problems] == ["adapter.init"]


def test_starts_with_b_at_zero_stay_and_an_a_that_trains_is_refused() -> None:
    assert resolve(AdapterSection(method="l_lora", init="eva")).init == "eva"
    with pytest.raises(RecipeError, match="A would train") as caught:
        resolve(AdapterSection(method="l_lora", trainable="all"))
    assert [problem.key for problem in caught.value.problems] == ["adapter.trainable"]
