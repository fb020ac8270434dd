"""What every delta that is a product of matrices owes, checked against the dense product written out by a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site

SCALE = 1.7
RANK = 3
SITE = Site("m", 0, "q", 5, 7, "linear")


def random_product(name: str, site: Site = SITE, others: Sequence[Site] = (), highest: int = RANK) -> Any:
    """The delta ``name`` at rank 3 on ``site``, every tensor random; ``others`` share with it, ``highest`` is the highest rank of all."""
    kind: type[Delta] = deltas.get(name)
    shapes = kind.shared_shapes([site, *others], highest)
    shared = Shared(shapes, kind).double() if shapes else None
    delta = kind(site, RANK, shared=shared).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in (*delta.parameters(), *(shared.parameters() if shared else ())):
        torch.nn.init.normal_(parameter, generator=generator)
    return delta


def check_product(delta: Any, dense: torch.Tensor) -> None:
    """``dense`` (out x in) is what the delta computes, in every form it has, and its gradients are those of finite differences."""
    site = delta.site
    x = torch.randn(2, 4, site.in_features, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", dense, x))
    assert_close(delta.dense(), dense)
    weight = torch.randn(site.out_features, site.in_features, dtype=torch.float64)
    assert_close(delta.effective_weight(weight, SCALE), weight + SCALE * dense)
    b, a = delta.factors()
    assert b.shape == (site.out_features, RANK)
    assert a.shape == (RANK, site.in_features)
    assert_close(b @ a, dense)
    norms = delta.row_norms_squared(weight, weight.square().sum(dim=1), SCALE)
    assert_close(norms.sqrt(), torch.linalg.vector_norm(weight + SCALE * dense, dim=1))

    rows = torch.randn(2, site.in_features, dtype=torch.float64, requires_grad=True)
    tensors = (*delta.parameters(), *(delta.shared.parameters() if delta.shared else ()))
    assert torch.autograd.gradcheck(lambda x, *tensors: delta(x, SCALE), (rows, *tensors))


def check_factors_are_taken(name: str) -> None:
    """``set_factors`` makes any product, whatever was there before."""
    delta = random_product(name)
    b, a = torch.randn(SITE.out_features, RANK).double(), torch.randn(RANK, SITE.in_features).double()
    with torch.no_grad():
        delta.set_factors(b, a)
    assert_close(delta.dense(), b @ a)
    assert not delta.is_zero()


def prepared(name: str, site: Site, rank: int) -> tuple[Any, torch.Tensor]:
    """A delta that looks at W, with random tensors on a random weight, and that weight; in double precision."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(site.out_features, site.in_features, generator=generator, dtype=torch.float64)
    delta = deltas.get(name)(site, rank).double()
    delta.prepare(weight)
    for parameter in delta.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return delta, weight
