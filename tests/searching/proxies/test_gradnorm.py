"""Gradient norms against plain autograd on weights W + s B A, and on copies of models with shortcuts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene
from support.search.scores_by_hand import Leaves, gradients, gradients_of_a_copy

from lorakit.recipe.schema import SHORTCUTS

Make = Callable[..., Scene]
NORMS: dict[str, Callable[[torch.Tensor], float]] = {
    "l2": lambda g: math.sqrt(float(g.square().sum())),
    "l1": lambda g: float(g.abs().sum()),
}


def by_formula(found: Leaves, norm: str) -> dict[str, float]:
    return {site: sum(NORMS[norm](tensor.grad) for tensor in pair.values()) for site, pair in found.items()}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_norms_of_the_gradient_summed_over_batches(make: Make, family: str, norm: str) -> None:
    scene = make(family)
    disturb(scene.adapted)
    assert scene.scores("gradnorm", norm=norm) == pytest.approx(by_formula(gradients(scene), norm), rel=1e-3)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_shortcuts_are_scored_in_the_same_currency(make: Make, family: str) -> None:
    scene = make(family, targets=["q", "v"], shortcuts=SHORTCUTS)
    disturb(scene.adapted)
    expected = by_formula(gradients_of_a_copy(scene), "l2")
    assert list(scene.scores("gradnorm")) == [site.name for site in scene.adapted.sites]
    assert scene.scores("gradnorm") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_while_b_is_zero_the_score_is_the_gradient_of_b_alone(make: Make, norm: str) -> None:
    scene = make("bert", shortcuts=["res1", "cut"])
    found = gradients_of_a_copy(scene)
    assert all(not pair["A"].grad.any() and pair["B"].grad.any() for pair in found.values())
    expected = {site: NORMS[norm](pair["B"].grad) for site, pair in found.items()}
    assert scene.scores("gradnorm", norm=norm) == pytest.approx(expected, rel=1e-4)


def test_only_tensors_that_train_count(make: Make) -> None:
    scene = make("bert", trainable="B")
    disturb(scene.adapted)
    expected = {site: NORMS["l2"](pair["B"].grad) for site, pair in gradients(scene).items()}
    assert scene.scores("gradnorm") == pytest.approx(expected, rel=1e-3)


def test_a_loss_that_pulls_on_no_site_scores_zero(make: Make) -> None:
    scene = make("bert", targets=["q"])
    head = dict(scene.adapted.model.named_parameters())[scene.adapted.new_parts[0]]
    scores = scene.scores("gradnorm", replace(scene.probe(), loss=lambda model, batch: head.sum()))
    assert set(scores.values()) == {0.0}
