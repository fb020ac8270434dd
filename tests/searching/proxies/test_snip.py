"""SNIP against sum |p dL/dp| by plain autograd, and what happens where B = 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene
from support.search.scores_by_hand import gradients, gradients_of_a_copy, saliency

from lorakit.recipe.schema import SHORTCUTS

Make = Callable[..., Scene]
TYPICAL = 0.02 * math.sqrt(2 / math.pi)  # E|b| of b ~ N(0, 0.02^2)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_sensitivity_to_removing_each_weight(make: Make, family: str) -> None:
    scene = make(family)
    disturb(scene.adapted)
    expected = saliency(gradients(scene))
    for untrained in ("literal", "expected"):  # no B is zero: both are the formula
        assert scene.scores("snip", untrained=untrained) == pytest.approx(expected, rel=1e-3)


def test_shortcuts(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=SHORTCUTS)
    disturb(scene.adapted)
    assert scene.scores("snip") == pytest.approx(saliency(gradients_of_a_copy(scene)), rel=1e-4)


@pytest.mark.parametrize("proxy", ["snip", "synflow"])
def test_literal_is_identically_zero_while_b_is_zero(make: Make, proxy: str) -> None:
    scores = make("bert", targets=["q", "v"], shortcuts=["res1"]).scores(proxy, untrained="literal")
    assert set(scores.values()) == {0.0}


@pytest.mark.parametrize(("proxy", "flow"), [("snip", False), ("synflow", True)])
def test_expected_gives_an_untrained_b_the_magnitude_of_a_small_random_one(make: Make, proxy: str, flow: bool) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=["res1"])
    trained, *fresh = scene.adapted.adapters
    with torch.no_grad():
        scene.adapted.adapters[trained].delta.B.fill_(0.03)
    found = gradients_of_a_copy(scene, flow=flow)
    expected = {site: TYPICAL * float(found[site]["B"].grad.abs().sum()) for site in fresh}
    expected[trained] = saliency(found)[trained]
    assert scene.scores(proxy, untrained="expected") == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0


def test_the_expected_score_is_the_mean_over_small_random_bs() -> None:
    b = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02
    assert float(b.abs().mean()) == pytest.approx(TYPICAL, rel=0.01)
