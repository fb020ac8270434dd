"""Two runs whose sites have directions of their own numbers."""

from __future__ import annotations

import numpy as np
import torch

from lorakit.workflow.analysis.likeness import SiteDirections, likeness


def first_axes(count: int, turned: int = 0) -> torch.Tensor:
    """Columns of the unit matrix of width 6: ``count`` of them, from ``turned`` on."""
    return torch.eye(6)[:, turned : turned + count]


def test_each_entry_is_the_mean_over_the_sites_that_have_it():
    ours = {
        "a": SiteDirections(0, "q", {"inputs": first_axes(1), "outputs": first_axes(1)}),
        "b": SiteDirections(1, "q", {"inputs": first_axes(2), "A": first_axes(2)}),
        "only ours": SiteDirections(2, "q", {"inputs": first_axes(2)}),
    }
    theirs = {
        "a": SiteDirections(0, "q", {"inputs": first_axes(3, turned=1)}),
        "b": SiteDirections(1, "q", {"inputs": first_axes(2)}),
    }
    (side,) = likeness(ours, theirs)  # neither A nor outputs are there in both
    assert side.side == "inputs"
    assert [(site.name, site.directions, site.first, site.whole) for site in side.sites] == [
        ("a", 1, 0, 0),
        ("b", 2, 1, 1),
    ]
    np.testing.assert_allclose(side.mean, [[0.5, 0.5, 0.0], [1.0, 1.0, np.nan]])
    np.testing.assert_allclose(side.chance, [[1 / 6, 2 / 6, 3 / 6], [2 / 6, 2 / 6, np.nan]])
    assert [(site.first_chance, site.whole_chance) for site in side.sites] == [(1 / 6, 1 / 6), (1 / 6, 2 / 6)]
