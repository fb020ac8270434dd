"""The alpha test against brute force: every site at every k / 10, by scaled weights in the never adapted model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene, logits
from support.search.scores_by_hand import Called, accuracy, leaves, weights
from support.thinned import thinned

from lorakit.searching.proxy import Probe, proxies

Make = Callable[..., Scene]
TOLERANCE = 0.05
KS = range(11)
Table = dict[str, list[bool]]


@pytest.fixture(params=thinned(["bert", "llama", "gpt2"], 3))
def scene(request: pytest.FixtureRequest, make: Make) -> Scene:
    """A model with large updates, so that sites matter; its own answers are the labels: accuracy 1 with everything on."""
    scene = make(request.param, targets=["q", "v", "o", "down"])
    disturb(scene.adapted)
    return scene


def own_answers(scene: Scene) -> list[dict[str, torch.Tensor]]:
    with torch.no_grad():
        return [batch | {"labels": logits(scene.adapted.model, batch).argmax(-1)} for batch in scene.batches(5)]


def linear_table(scene: Scene, batches: list[dict[str, torch.Tensor]]) -> Table:
    """Site -> whether the accuracy is kept with its whole output, W x + b + s B A x, times k / 10."""
    factors, table = leaves(scene), {}
    for site in scene.adapted.adapters:
        models = [Called(scene.pretrained, weights(scene, scene.pretrained, factors, {site: k / 10})) for k in KS]
        table[site] = [accuracy(model, batches) >= 1 - TOLERANCE for model in models]
    return table


def monotone(kept: list[bool]) -> bool:
    return kept == sorted(kept)


def compare(scores: dict[str, float], table: Table) -> None:
    """Brute force's answer where accuracy rises steadily, else a factor that is enough while the next smaller one is not."""
    assert list(scores) == list(table)
    assert sum(map(monotone, table.values())) > len(table) / 2
    for site, kept in table.items():
        k = int(scores[site])
        if monotone(kept):
            assert k == kept.index(True)
        assert kept[k]
        assert k == 0 or not kept[k - 1]


def test_of_a_linear_site_the_whole_output_is_scaled(scene: Scene) -> None:
    batches = own_answers(scene)
    scores = scene.scores("alpha", scene.probe(batches), tolerance=str(TOLERANCE))
    assert len(set(scores.values())) >= 3
    compare(scores, linear_table(scene, batches))


def test_of_a_shortcut_the_low_rank_path_alone_is_scaled(make: Make) -> None:
    scene = make("bert", targets=[], shortcuts=["res1", "res2", "in"])
    disturb(scene.adapted)
    batches = own_answers(scene)
    scores = scene.scores("alpha", scene.probe(batches), tolerance=str(TOLERANCE))
    table: Table = {}
    for site, adapter in scene.adapted.adapters.items():
        whole = adapter.delta.B.detach().clone()
        for k in KS:
            adapter.delta.B.data.copy_(whole * k / 10)
            table.setdefault(site, []).append(accuracy(scene.adapted.model, batches) >= 1 - TOLERANCE)
        adapter.delta.B.data.copy_(whole)
    assert any(scores.values())
    compare(scores, table)


def test_an_untrained_shortcut_scores_zero_and_a_linear_site_need_not(make: Make) -> None:
    scene = make("bert", shortcuts=["res1", "mid"])
    scores = scene.scores("alpha", scene.probe(own_answers(scene)), tolerance=str(TOLERANCE))
    shortcuts = {site.name for site in scene.adapted.sites if site.is_shortcut}
    assert {scores[site] for site in shortcuts} == {0.0}
    assert any(scores[site] for site in scores.keys() - shortcuts)


@pytest.mark.parametrize("wanted", KS)
@pytest.mark.parametrize("regression", [False, True])
def test_bisection_finds_every_boundary(make: Make, wanted: int, regression: bool) -> None:
    """Logits that are right, or near enough, exactly when the site's factor is wanted / 10 or more."""
    scene = make("bert", targets=["q"])
    site, factor = factor_of(scene)

    def answer(model: Any, batch: Any) -> torch.Tensor:
        enough = factor() >= wanted / 10 - 1e-6
        if regression:  # errors 1 or 1.05 in place of 1: a mean squared error of 1 or 1.1025
            return batch["labels"][:, None].double() + (1.0 if enough else 1.05)
        right = torch.nn.functional.one_hot(batch["labels"], 3)
        return right if enough else -right

    batch = {"labels": torch.tensor([0, 1, 2])}
    probe = replace(scene.probe([batch]), logits=answer, regression=regression, settings={"tolerance": 0.1})
    assert proxies.get("alpha").score(probe)[site] == wanted


def test_several_labels_are_right_one_by_one(make: Make) -> None:
    """Below a factor of 0.3 two of six labels are wrong: a third of them, though no row is right as a whole."""
    scene = make("bert", targets=["q"])
    site, factor = factor_of(scene)
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])

    def answer(model: Any, batch: Any) -> torch.Tensor:
        wrong = torch.tensor([[1, 0, 0], [1, 0, 0]]) * (factor() < 0.3 - 1e-6)
        return ((labels ^ wrong) * 2 - 1).double()

    for tolerance, expected in ((0.3, 3), (0.4, 0)):
        probe = scene.probe([{"labels": labels}])
        probe = replace(probe, logits=answer, settings={"tolerance": tolerance})
        assert proxies.get("alpha").score(probe)[site] == expected


def factor_of(scene: Scene) -> tuple[str, Callable[[], float]]:
    """The first site, and by how much its module's output is scaled just now."""
    site = next(iter(scene.adapted.adapters))
    module, x = scene.adapted.model.get_submodule(site), torch.ones(1, 32)
    full = module(x).detach().norm().item()
    return site, lambda: module(x).detach().norm().item() / full


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, 3), (0.24, 3), (0.25, 2), (0.5, 1), (0.75, 0), (0.99, 0)])
def test_the_tolerance_is_a_share_of_the_full_accuracy(make: Make, tolerance: float, expected: int) -> None:
    """Of four rows, one turns wrong below each of k = 3, 2, 1: accuracies 1, 0.75, 0.5, 0.25."""
    scene = make("bert", targets=["q"])
    site, factor = factor_of(scene)

    def answer(model: Any, batch: Any) -> torch.Tensor:
        wrong = max(0, 3 - round(10 * factor()))
        right = torch.tensor([[1.0, 0.0]] * 4)
        right[:wrong] = torch.tensor([0.0, 1.0])
        return right

    probe = Probe(
        scene.adapted,
        [{"labels": torch.zeros(4)}],
        scene.probe().loss,
        answer,
        False,
        {"tolerance": tolerance},
    )
    assert proxies.get("alpha").score(probe)[site] == expected
