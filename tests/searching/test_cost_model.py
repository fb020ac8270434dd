"""Prices against the multiply-adds that torch counts, and padding against batches as an epoch makes them."""

from __future__ import annotations

import itertools
from statistics import mean

import numpy as np
import pytest
import torch
from support.search.scene import Scene
from torch.utils.flop_counter import FlopCounterMode

from lorakit.searching.cost_model import (
    BACKWARD,
    DROPOUT,
    EIGEN,
    GRADIENT,
    SINGULAR,
    THIN,
    WATCHED,
    CostModel,
    longest_rows,
)
from lorakit.tasks.batching import epoch_batches, evaluation_batches, sorted_together


def cost_model(scene: Scene, **changed: object) -> CostModel:
    sites = scene.adapted.sites
    layers = scene.adapted.backbone.anatomy
    given: dict[str, object] = {
        "sites": sites,
        "ranks": [scene.adapted.adapters[site.name].rank for site in sites],
        "layers": len(layers.layers),
        "frozen": sum(site.in_features * site.out_features for site in layers.sites),
        "parameters": 1000,
        "tokens": 70.0,
        "scored": (90.0, 60.0),
        "share": 0.25,
        "steps": 10,
        "accumulate": 1,
    }
    return CostModel(**(given | changed))  # type: ignore[arg-type]


@pytest.fixture
def scene(make) -> Scene:
    return make("bert", shortcuts=("res1", "res2"))


def addmm_in_place(total, left, right, **_) -> int:
    """torch counts ``addmm`` and not this. The shapes are given."""
    return 2 * left[0] * left[1] * right[1]


def multiply_adds(action) -> int:
    """Those of the matrix products of ``action`` that are no batched ones, as attention's are."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_in_place}) as counter:
        action()
    counts = counter.get_flop_counts()["Global"]
    return sum(flops for product, flops in counts.items() if product is not torch.ops.aten.bmm) // 2


def test_frozen_layers_and_paths_are_what_torch_counts(scene: Scene) -> None:
    model, (batch,) = scene.adapted.model.eval(), scene.batches(1)
    rows, length = batch["input_ids"].shape
    told = cost_model(scene, tokens=rows * length, scored=(rows * length,))
    width, labels = scene.adapted.backbone.anatomy.hidden_size, 3

    def forward() -> None:
        model(**{name: tensor for name, tensor in batch.items() if name != "labels"})

    with torch.no_grad():
        every = multiply_adds(forward)
        scene.adapted.switch([])
        none = multiply_adds(forward)
    head = rows * width * (width + labels)  # the pooler and the classifier
    assert none == told.tokens * told.frozen + head
    assert every - none == pytest.approx(told.tokens * told.paths / THIN)


def test_scoring_takes_three_times_the_paths(scene: Scene) -> None:
    """Going back, a site computes twice what it does forward; its input has no gradient where nothing trains below."""
    model, (batch,) = scene.adapted.model.eval(), scene.batches(1)
    rows, length = batch["input_ids"].shape
    told, adapters = cost_model(scene, scored=(rows * length,)), scene.adapted.adapters
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    tensors = [tensor for adapter in adapters.values() for _, tensor, _ in adapter.trained_tensors()]

    def back_to(embeddings: torch.Tensor, wanted: list[torch.Tensor]) -> int:
        given = {**inputs, "input_ids": None, "inputs_embeds": embeddings}
        logits = model(**given).logits
        return multiply_adds(lambda: torch.autograd.grad(logits.sum(), wanted))

    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    every = back_to(embeddings, [embeddings, *tensors])
    scene.adapted.switch([])
    none = back_to(embeddings, [embeddings])
    assert every - none == pytest.approx(2 * told.paths / THIN * rows * length)
    assert told.scoring() == pytest.approx(rows * length * (told.frozen * (1 + BACKWARD) + 3 * told.paths))


def test_a_batch_and_a_watched_one(scene: Scene) -> None:
    told = cost_model(scene)
    assert told.batch(0.25, 0.5) == pytest.approx(70 * (told.frozen * (DROPOUT + BACKWARD / 2) + 3 * told.paths / 4))
    more = told.batch(0.25, watched=0.75) - told.batch(0.25, 0.5)
    assert more == pytest.approx(70 * (told.frozen * BACKWARD / 2 + 3 * WATCHED * 0.75 * told.paths))


def test_the_first_drawn_batch_is_the_longest(scene: Scene) -> None:
    told = cost_model(scene)
    assert told.scoring(1) / told.scoring() == pytest.approx(90 / 150)
    assert told.forward(1) / told.forward() == pytest.approx(90 / 150)


def test_matrices_are_counted_by_their_shorter_side(make) -> None:
    told = cost_model(make("bert", targets=("up",)))
    assert told.spectra() == SINGULAR * sum(
        site.out_features * site.in_features * min(site.in_features, site.out_features) for site in told.sites
    )
    eigenvalues = EIGEN * sum(site.in_features**3 for site in told.sites)
    products = 150 * sum(site.in_features**2 for site in told.sites)
    assert told.covariances() - told.forward() == pytest.approx(eigenvalues + products)


@pytest.mark.parametrize(("layers", "on"), [(6, 1), (6, 2), (4, 5)])
def test_drawn_sites_reach_down_to_the_lowest_of_them(scene: Scene, layers: int, on: int) -> None:
    """By trying all draws of so many layers."""
    told = cost_model(scene, layers=layers, share=on / len(scene.adapted.sites))
    depths = [(layers - min(drawn)) / layers for drawn in itertools.product(range(layers), repeat=on)]
    assert told.lowest() == pytest.approx(mean(depths))


@pytest.mark.parametrize("size", [4, 16])
def test_padding_is_that_of_an_epochs_batches(size: int) -> None:
    lengths = np.random.default_rng(5).integers(5, 120, 3000)
    batches = epoch_batches(lengths, size, seed=1, epoch=0, group=True)
    expected = mean(lengths[rows].max() for rows in batches)
    told = longest_rows(lengths, size, sorted_together(len(lengths), size))
    assert mean(told) == pytest.approx(expected, rel=0.02)
    drawn = [np.random.default_rng(n).permutation(lengths)[: 3 * size] for n in range(200)]
    sorted_ = [[rows[places].max() for places in evaluation_batches(rows, size)] for rows in drawn]
    assert longest_rows(lengths, size, 3) == pytest.approx(np.mean(sorted_, axis=0), rel=0.06)


def test_rows_of_one_length_need_no_padding() -> None:
    assert longest_rows(np.full(50, 17), 8, 3) == [17.0] * 3


def test_gradients_of_weights_take_the_place_of_those_of_a_and_b(make) -> None:
    told = cost_model(make("bert"))  # every frozen weight is a site
    assert told.scoring() - told.of_weights() == pytest.approx(150 * (told.paths - GRADIENT * told.frozen))


def test_steps_are_through_the_layers_that_are_not_frozen_and_scoring_goes_back_through_these_alone(scene: Scene):
    whole, upper = cost_model(scene), cost_model(scene, below=0.5)
    frozen, paths = whole.frozen, whole.paths
    assert upper.batch() == pytest.approx(70 * (frozen / 2 * (DROPOUT + BACKWARD) + 3 * paths))
    assert whole.scoring() - upper.scoring() == pytest.approx(150 * frozen * BACKWARD / 2)
    assert upper.forward() == whole.forward()
