"""B G A with a core of the site's own between two matrices that sites of one shape share."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest
from support.adapters.products import RANK, SITE, check_product, random_product

from lorakit.adapters.deltas.shared_core import SharedCore
from lorakit.adapters.method import resolve
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection


def test_it_is_the_dense_product() -> None:
    delta = random_product("shared_core", others=[Site("n", 1, "v", 5, 7, "linear")], highest=RANK + 1)
    b, a = delta.shared.B[:, :RANK], delta.shared.A[:RANK]
    check_product(delta, torch.einsum("oj,jk,ki->oi", b, delta.G, a).detach())


def test_sites_of_one_shape_are_a_group_whatever_their_role() -> None:
    assert SharedCore.group(SITE) == SharedCore.group(Site("other", 9, "v", 5, 7, "conv1d"))
    assert len({SharedCore.group(Site("m", 0, "q", *shape, "linear")) for shape in [(5, 7), (7, 5), (5, 5)]}) == 3


def test_the_shared_matrices_start_standard_normal_and_the_core_at_zero() -> None:
    site = Site("m", 0, "q", 400, 300, "linear")
    shared = Shared(SharedCore.shared_shapes([site], 16), SharedCore)
    delta = SharedCore(site, 16, shared=shared)
    for part in (delta, shared):
        part.put_at_start(torch.Generator().manual_seed(0))
    assert not delta.G.any()
    assert delta.is_zero()
    for matrix in (shared.A, shared.B):
        assert kstest(matrix.detach().flatten().numpy(), "norm").pvalue > 0.01


def test_a_core_that_stays_zero_is_refused() -> None:
    with pytest.raises(RecipeError, match="'G' starts at zero"):
        resolve(AdapterSection(delta="shared_core", trainable="A+B"))
    assert resolve(AdapterSection(delta="shared_core", trainable="core")).trains("core")
