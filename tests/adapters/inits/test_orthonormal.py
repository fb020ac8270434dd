"""Orthonormal rows or columns, and the distribution: uniform among such matrices."""

from __future__ import annotations

import torch
from scipy.stats import kstest
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site

SITE = Site("m", 0, "q", 20, 30, "linear")


def context(seed: int = 0) -> InitContext:
    return InitContext(None, 1.0, torch.Generator().manual_seed(seed))


def test_every_matrix_that_is_drawn_has_orthonormal_rows_or_columns() -> None:
    delta = deltas.get("core")(SITE, 4)
    inits.get("orthonormal")(delta, context())
    assert_close(delta.A @ delta.A.T, torch.eye(4), atol=1e-5, rtol=0)
    assert_close(delta.B.T @ delta.B, torch.eye(4), atol=1e-5, rtol=0)
    assert not delta.G.any()


def test_what_starts_at_zero_stays_there() -> None:
    delta = deltas.get("low_rank")(SITE, 4)
    inits.get("orthonormal")(delta, context())
    assert_close(delta.A @ delta.A.T, torch.eye(4), atol=1e-5, rtol=0)
    assert not delta.B.any()


def test_what_sites_share_is_drawn_too() -> None:
    tied = deltas.get("tied")
    shared = Shared(tied.shared_shapes([SITE], 4), tied)
    inits.get("orthonormal")(shared, context())
    assert_close(shared.A @ shared.A.T, torch.eye(4), atol=1e-5, rtol=0)
    assert not shared.B.any()


def test_no_direction_is_preferred() -> None:
    """A unit vector uniform on the circle has an angle uniform in (-pi, pi)."""
    draws = []
    for seed in range(400):
        delta = deltas.get("low_rank")(Site("m", 0, "q", 2, 2, "linear"), 1)
        inits.get("orthonormal")(delta, context(seed))
        draws.append(delta.A.detach()[0])
    rows = torch.stack(draws)
    angles = torch.atan2(rows[:, 0], rows[:, 1])
    assert kstest(angles.numpy(), "uniform", args=(-torch.pi, 2 * torch.pi)).pvalue > 0.01


def test_the_stream_decides() -> None:
    first, again, other = (deltas.get("low_rank")(SITE, 4) for _ in range(3))
    for delta, seed in ((first, 1), (again, 1), (other, 2)):
        inits.get("orthonormal")(delta, context(seed))
    assert torch.equal(first.A, again.A)
    assert not torch.allclose(first.A, other.A)
