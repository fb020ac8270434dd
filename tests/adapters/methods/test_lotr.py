"""LoTR (Bershatsky et al. 2024): (in + out) r parameters a shape, and r^2 a site."""

from support.adapters.contract import contract

from lorakit.adapters.counting import costs, shared_cost, uniform_cost
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection


def of_shapes(rank: int, sites: list[Site]) -> int:
    return sum(rank * (inside + outside) for inside, outside in {(s.in_features, s.out_features) for s in sites})


test_contract = contract("lotr", parameters=lambda rank, inside, outside: rank * rank, shared=of_shapes, alpha=1.7)


def test_q_and_v_of_roberta_base_cost_what_the_authors_table_says() -> None:
    """75,264 with the 1,536 of its classifier."""
    spec = resolve(AdapterSection(method="lotr", rank=32))
    sites = [Site(f"{layer}.{role}", layer, role, 768, 768, "linear") for layer in range(12) for role in "qv"]
    assert sum(costs(sites, spec, spec).values()) == 24 * 32**2
    assert shared_cost(sites, spec, spec) == 1536 * 32
    assert uniform_cost(sites, spec, spec, 32) == 73_728 == 75_264 - 1_536


def test_its_scale_is_alpha_over_rank() -> None:
    assert resolve(AdapterSection(method="lotr", alpha=8)).scale_at(32) == 0.25
