"""diag(b) B diag(d) A with a part of two matrices that all sites share, against the matrices multiplied out."""

from __future__ import annotations

import torch
from support.adapters.products import RANK, SITE, check_product, random_product
from torch.testing import assert_close

from lorakit.adapters.deltas.shared_vectors import SharedVectors
from lorakit.backbone.site import Site

WIDE = Site("wide", 0, "down", 11, 4, "linear")
TALL = Site("tall", 0, "up", 2, 13, "linear")


def test_it_is_the_dense_product() -> None:
    delta = random_product("shared_vectors")
    shared = delta.shared
    check_product(delta, (torch.diag(delta.b) @ shared.B @ torch.diag(delta.d) @ shared.A).detach())


def test_a_site_takes_the_first_rows_columns_and_ranks() -> None:
    delta = random_product("shared_vectors", others=[WIDE, TALL], highest=RANK + 2)
    shared = delta.shared
    assert (shared.A.shape, shared.B.shape) == ((RANK + 2, 11), (13, RANK + 2))
    a, b = shared.A[:RANK, :5], shared.B[:7, :RANK]
    check_product(delta, (torch.diag(delta.b) @ b @ torch.diag(delta.d) @ a).detach())


def test_shapes() -> None:
    assert SharedVectors.shapes(SITE, 3) == {"d": (3,), "b": (7,)}
    assert SharedVectors.group(SITE) == SharedVectors.group(WIDE) == SharedVectors.group(TALL)


def test_it_has_nothing_of_the_shared_ones_for_a_child() -> None:
    delta = random_product("shared_vectors")
    assert {name for name, _ in delta.named_parameters()} == {"d", "b"}
    with torch.no_grad():
        delta.shared.B.zero_()
    assert_close(delta.dense(), torch.zeros(7, 5, dtype=torch.float64))
