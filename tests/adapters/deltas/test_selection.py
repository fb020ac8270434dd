"""B diag(softmax(alpha)) A against the matrices multiplied out."""

from __future__ import annotations

import torch
from support.adapters.products import SITE, check_product, random_product

from lorakit.adapters.deltas.selection import Selection


def test_it_is_the_dense_product() -> None:
    delta = random_product("selection")
    shares = delta.alpha.exp() / delta.alpha.exp().sum()
    check_product(delta, (delta.B @ torch.diag(shares) @ delta.A).detach())


def test_units_that_stay_keep_their_shares() -> None:
    delta = random_product("selection")
    shares = delta.alpha.exp() / delta.alpha.exp().sum()
    expected = delta.B[:, [0, 2]] @ torch.diag(shares[[0, 2]]) @ delta.A[[0, 2]]
    delta.close(torch.tensor([False, True, False]))
    torch.testing.assert_close(delta.dense(), expected)


def test_shapes_and_start() -> None:
    assert Selection.shapes(SITE, 3) == {"A": (3, 5), "B": (7, 3), "alpha": (3,)}
    delta = Selection(SITE, 4)
    delta.put_at_start(torch.Generator())
    assert torch.equal(delta.shares(), torch.full((4,), 0.25))
