"""OLoRA: the QR decomposition, by Gram-Schmidt written out."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.backbone.site import Site

RANK = 3
SITE = Site("m", 0, "q", 7, 10, "linear")


def test_b_is_an_orthonormal_basis_of_the_first_columns_and_a_what_w_is_in_it() -> None:
    weight = torch.randn(10, 7, generator=torch.Generator().manual_seed(1))
    delta = deltas.get("low_rank")(SITE, RANK)
    inits.get("olora")(delta, InitContext(weight, 5 / 3, torch.Generator()))
    basis: list[torch.Tensor] = []
    for column in weight.double().T[:RANK]:
        for other in basis:
            column = column - (column @ other) * other
        basis.append(column / column.norm())
    q = torch.stack(basis, dim=1)
    signs = (q * delta.B.detach()).sum(dim=0).sign()  # QR leaves them free
    assert_close(delta.B.detach().double(), q * signs, rtol=1e-5, atol=1e-6)
    assert_close(delta.A.detach().double(), (q * signs).T @ weight.double(), rtol=1e-5, atol=1e-5)
