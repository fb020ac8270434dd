"""The contract at every registered method, and at every two values of two axes together."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from adapters.contract import CHECKS, Fresh, make_case

from lorakit.adapters.spec import SCALES, AdapterSpec, resolve
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection
from lorakit.registry import deltas, inits, methods

ROLES = sorted({role for _, delta in deltas.items() for role in {**delta.roles, **delta.shared_roles}.values()})
AXES = {
    "delta": deltas.names(),
    "init": inits.names(),
    "scale": list(SCALES),
    "trainable": ["all", *ROLES, *(f"{role}+magnitude" for role in ROLES)],
    "decomposition": ["none", "magnitude"],
}


def allowed(section: AdapterSection) -> bool:
    try:
        spec = resolve(section)
    except RecipeError:
        return False
    return sits_on_projections(section, spec)


def sits_on_projections(section: AdapterSection, spec: AdapterSpec) -> bool:
    """Whether the method's sites are of a kind that the delta can sit on: a recipe with others is refused as it is read on a model."""
    of_block = methods.get(section.method).block is not None
    return of_block == ("linear" not in deltas.get(spec.delta).kinds)


def points() -> list[dict[str, str]]:
    """Every method with every value of one axis, and every pair of values of two axes over LoRA; what is refused left out."""
    chosen = [{"method": method} for method in methods.names()]
    chosen += [{"method": method, axis: value} for method in methods.names() for axis in AXES for value in AXES[axis]]
    for (one, ones), (two, twos) in itertools.combinations(AXES.items(), 2):
        chosen += [{one: a, two: b} for a in ones for b in twos]
    by_axes = {resolve(AdapterSection(**point)): point for point in chosen if allowed(AdapterSection(**point))}
    return list(by_axes.values())


@pytest.mark.parametrize("point", points(), ids=lambda point: "-".join(point.values()))
def test_every_point_of_the_product_keeps_the_contract(point: dict[str, str], fresh: Fresh) -> None:
    for check in CHECKS:
        check(make_case(fresh, "gpt2", AdapterSection(**point)))


def test_every_registered_method_has_its_own_contract_test() -> None:
    files = {path.stem.removeprefix("test_") for path in (Path(__file__).parent / "methods").glob("test_*.py")}
    assert files == set(methods.names())
