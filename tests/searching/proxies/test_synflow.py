"""SynFlow against plain autograd on a deep copy with absolute weights and an embedding table of ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from support.adapters.cases import disturb
from support.search.scene import Scene
from support.search.scores_by_hand import flow_gradients, gradients_of_a_copy, saliency

from lorakit.recipe.schema import SHORTCUTS

Make = Callable[..., Scene]


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_flow_through_the_absolute_network_of_ones(make: Make, family: str) -> None:
    scene = make(family)
    disturb(scene.adapted)
    expected = saliency(flow_gradients(scene))
    assert scene.scores("synflow") == pytest.approx(expected, rel=1e-3, abs=1e-5 * max(expected.values()))


def test_where_all_tokens_are_alike_queries_and_keys_have_nothing_to_choose_between(make: Make) -> None:
    """Llama's positions only turn queries and keys, so that with ones for embeddings all its values are the same."""
    scene = make("llama")
    disturb(scene.adapted)
    scores = scene.scores("synflow")
    idle = {site.name for site in scene.adapted.sites if site.role in ("q", "k")}
    assert max(scores[site] for site in idle) < 1e-4 * min(scores[site] for site in scores.keys() - idle)


def test_shortcuts(make: Make) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=SHORTCUTS)
    disturb(scene.adapted)
    assert scene.scores("synflow") == pytest.approx(saliency(gradients_of_a_copy(scene, flow=True)), rel=1e-4)


def test_the_words_do_not_matter_but_mask_and_labels_do(make: Make) -> None:
    scene = make("bert")
    disturb(scene.adapted)
    (batch,) = scene.batches(1)
    kept = batch["attention_mask"].bool()
    others = batch | {"input_ids": torch.where(kept, 4 + batch["input_ids"].flip(0) % 9, batch["input_ids"])}
    relabelled = batch | {"labels": (batch["labels"] + 1) % 3}
    shorter = copy.deepcopy(batch)
    shorter["attention_mask"][:, 3:] = 0
    scores = [scene.scores("synflow", scene.probe([rows])) for rows in (batch, others, relabelled, shorter)]
    assert scores[1] == scores[0]
    assert scores[2] != scores[0] != scores[3]


def test_signs_come_back_bit_for_bit_minus_zero_included(make: Make) -> None:
    scene = make("bert", targets=["q"])
    weight = next(iter(scene.adapted.model.parameters()))
    with torch.no_grad():
        weight.view(-1)[:2] = torch.tensor([-0.0, 0.0])
    before = weight.detach().clone().view(torch.int32)
    scene.scores("synflow")
    assert torch.equal(weight.view(torch.int32), before)
