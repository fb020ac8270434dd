"""diag(b) B diag(d) A with two trained matrices that sites of one role and shape share."""

from __future__ import annotations

import pytest
import torch
from support.adapters.products import RANK, SITE, check_product, random_product

from lorakit.adapters.deltas.tied import Tied
from lorakit.adapters.method import resolve
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection


def test_it_is_the_dense_product() -> None:
    delta = random_product("tied", others=[Site("n", 1, "q", 5, 7, "linear")], highest=RANK + 1)
    b, a = delta.shared.B[:, :RANK], delta.shared.A[:RANK]
    check_product(delta, (torch.diag(delta.b) @ b @ torch.diag(delta.d) @ a).detach())


def test_sites_of_one_role_and_shape_are_a_group() -> None:
    assert Tied.group(SITE) == Tied.group(Site("other layer", 9, "q", 5, 7, "conv1d"))
    others = [("v", 5, 7), ("q", 7, 5), ("q", 5, 8)]
    assert len({Tied.group(SITE), *(Tied.group(Site("m", 0, *other, "linear")) for other in others)}) == 4
    assert "." not in Tied.group(SITE)  # it is part of tensors' names


def test_it_starts_as_lora_with_ones() -> None:
    shared = Shared(Tied.shared_shapes([SITE], 3), Tied)
    delta = Tied(SITE, 3, shared=shared)
    for part in (delta, shared):
        part.put_at_start(torch.Generator())
    assert torch.equal(delta.d, torch.ones(3))
    assert torch.equal(delta.b, torch.ones(7))
    assert [name for name, _, _ in shared.init_tensors()] == ["A"]
    assert not shared.B.any()
    assert delta.is_zero()


def test_a_b_that_stays_zero_is_refused() -> None:
    for trainable in ("vector", "A", "A+vector"):
        with pytest.raises(RecipeError, match="'B' starts at zero"):
            resolve(AdapterSection(delta="tied", trainable=trainable))
    assert resolve(AdapterSection(delta="tied", trainable="B+vector")).trains("B")
