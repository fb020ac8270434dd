"""Every two values of two axes together: the contract where they are a point of the product, a reason where they are not.

In the default run every other point meets one check of the contract, by turns; in the slow run every point meets three.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.adapters.cases import SMALL_OPTIONS, Case, Fresh, make_case
from support.adapters.contract import (
    check_autocast,
    check_counts,
    check_drop,
    check_identity,
    check_merge,
    check_round_trip,
    check_training,
)
from support.thinned import as_parameter

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import inits
from lorakit.adapters.method import Method, default_init, methods, resolve
from lorakit.adapters.spec import SCALES, AdapterSpec
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

CHECKS = (
    check_identity,
    check_merge,
    check_training,
    check_counts,
    check_drop,
    check_round_trip,
    check_autocast,
)
LORA: Method = methods.get("lora")
PLACED = {
    method.delta: method.name
    for _, method in methods.items()
    if method.delta != LORA.delta and (method.block or not method.identity)
}
ROLES = sorted({role for _, delta in deltas.items() for role in {**delta.roles, **delta.shared_roles}.values()})
FAMILIES = ("gpt2", "bert", "llama")  # by turns: Conv1D and Linear, with biases and without
AXES = {
    "delta": deltas.names(),
    "init": inits.names(),
    "scale": list(SCALES),
    "trainable": ["all", *ROLES, *(f"{role}+magnitude" for role in ROLES)],
    "decomposition": ["none", "magnitude"],
}


def section(**axes: str) -> AdapterSection:
    """LoRA with these axes; a delta that no projection takes, or that starts away from zero, comes with its own method; usual settings."""
    usual = next((m for _, m in methods.items() if m.delta == axes.get("delta")), None)
    method = PLACED.get(axes.get("delta", ""), "lora")
    options = {**(dict(usual.options) if usual else {}), **SMALL_OPTIONS.get(axes.get("delta", ""), {})}
    alpha = usual.alpha if usual and usual.delta == "shared_core" else None  # its factors are N(0, 1)
    return AdapterSection(method=method, options=options, alpha=alpha, **axes)  # type: ignore[arg-type]


def pairs() -> list[dict[str, str]]:
    """All pairs of values of two axes."""
    return [
        {one: a, two: b}
        for (one, ones), (two, twos) in itertools.combinations(AXES.items(), 2)
        for a in ones
        for b in twos
    ]


def spec_of(axes: dict[str, str]) -> AdapterSpec | None:
    """The point of the product, or None where it is refused."""
    try:
        return resolve(section(**axes))
    except RecipeError:
        return None


def points() -> list[dict[str, str]]:
    """One pair for each point of the product."""
    return list({spec: axes for axes in pairs() if (spec := spec_of(axes)) is not None}.values())


def named(value: dict[str, str] | str | Sequence[Callable[[Case], None]]) -> str:
    """A point, a family, or checks, in a test's name."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "-".join(value.values())
    return "+".join(check.__name__.removeprefix("check_") for check in value)


def each_once() -> list[Any]:
    """(point, family, checks): three of every point; every other point has its first in the default run, and the rest is slow."""
    cases = []
    for place, (axes, family) in enumerate(zip(points(), itertools.cycle(FAMILIES))):
        three = tuple(CHECKS[(place + step) % len(CHECKS)] for step in (0, 2, 4))
        if place % 2:
            cases.append(as_parameter((axes, family, three), slow=True))
        else:
            cases.append(as_parameter((axes, family, three[:1]), slow=False))
            cases.append(as_parameter((axes, family, three[1:]), slow=True))
    return cases


@pytest.mark.parametrize(("axes", "family", "checks"), each_once(), ids=named)
def test_every_point_of_the_product_keeps_the_contract(
    axes: dict[str, str], family: str, checks: Sequence[Callable[[Case], None]], fresh: Fresh
) -> None:
    if family == "llama" and axes.get("trainable") in ("vector", "vector+magnitude", "bias", "bias+magnitude"):
        family = "bert"  # some vectors are a bias's, and Llama has none
    if family == "gpt2" and inits.get(resolve(section(**axes)).init).quantises:
        family = "bert"  # its Conv1D modules stay as they are
    for check in checks:
        check(make_case(fresh, family, section(**axes)))


def test_every_refusal_has_its_reason() -> None:
    refused = [axes for axes in pairs() if spec_of(axes) is None]
    assert len(refused) > len(AXES)
    for axes in refused:
        with pytest.raises(RecipeError) as caught:
            resolve(section(**axes))
        assert all(problem.key.startswith("adapter.") and problem.valid for problem in caught.value.problems), axes


def test_every_parametrisation_meets_every_kind_of_start_and_magnitude() -> None:
    met = {(spec.delta, spec.init) for axes in points() if (spec := spec_of(axes))}
    for name, delta in deltas.items():
        takers = {
            init for init, entry in inits.items() if init != "nothing" and (delta.takes_factors or not entry.factors)
        }
        draws = default_init(LORA, name) != "nothing"
        assert {init for of, init in met if of == name} == (takers if draws else {"nothing"}), name


def test_every_registered_method_has_its_own_contract_test() -> None:
    files = {path.stem.removeprefix("test_") for path in (Path(__file__).parent / "methods").glob("test_*.py")}
    assert files == set(methods.names())
