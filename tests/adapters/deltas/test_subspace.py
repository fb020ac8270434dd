"""lambda P z: P against Fastfood written out with scipy's Hadamard matrix, and as the random projection that it is to be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from torch.testing import assert_close

from lorakit.adapters.deltas.subspace import Subspace
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError

SCALE = 1.7
SITE = Site("m", 1, "q", 5, 7, "linear")
OUTSIDE = Site("pooler", -1, "other", 5, 7, "linear")
NO_SCALARS = {"per_layer": False}


def make(rank: int, site: Site = SITE, options: dict[str, Any] | None = None) -> Any:
    """The delta of ``site`` beside one of the third layer, its shared tensors random, in double precision."""
    options = options or {}
    shapes = Subspace.shared_shapes([site, Site("last", 2, "v", 8, 8, "linear")], rank, options)
    shared = Shared(shapes, Subspace).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in shared.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return Subspace(site, rank, options, shared).double()


def projection(delta: Any) -> torch.Tensor:
    """P (out in x |z|), a column at a time, from a delta without scalars."""
    z = delta.shared.get_parameter("z")
    columns = []
    for place in range(len(z)):
        with torch.no_grad():
            z.zero_()[place] = 1.0
        columns.append(delta.dense().detach().flatten())
    return torch.stack(columns, dim=1)


def fastfood(delta: Any) -> np.ndarray[Any, Any]:
    """H G Pi H B / sqrt(n p), block below block, cut to n rows and the columns of z, as the paper writes it."""
    blocks, p = delta.signs.shape
    n, h, eye = delta.site.out_features * delta.site.in_features, hadamard(p).astype(float), np.eye(p)
    rows = []
    for block in range(blocks):
        signs, gaussian = np.diag(delta.signs[block].numpy()), np.diag(delta.gaussian[block].numpy())
        permutation = eye[delta.places.view(blocks, p)[block].numpy() - block * p]
        rows.append(h @ gaussian @ permutation @ h @ signs)
    return np.concatenate(rows)[:n, : delta.columns] / math.sqrt(n * p)


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 13, 64])
def test_it_is_fastfood_multiplied_out(rank: int) -> None:
    delta = make(rank, options=NO_SCALARS)
    assert delta.signs.shape[1] == 2 ** math.ceil(math.log2(rank))
    assert_close(projection(delta).numpy(), fastfood(delta), rtol=1e-13, atol=1e-13)


def test_its_parts_are_signs_permutations_and_gaussians() -> None:
    delta = make(200, Site("m", 0, "up", 64, 64, "linear"), NO_SCALARS)
    blocks, p = delta.signs.shape
    assert (blocks, p) == (16, 256)
    assert (delta.signs.dtype, delta.places.dtype) == (torch.int8, torch.int32)
    assert delta.signs.abs().eq(1).all()
    assert abs(delta.signs.double().mean()) < 4 / math.sqrt(blocks * p)
    places = delta.places.view(blocks, p) - p * torch.arange(blocks)[:, None]
    assert torch.equal(places.sort(dim=1).values, torch.arange(p).expand(blocks, p).int())
    assert len(places.unique(dim=0)) == blocks
    gaussian = delta.gaussian.double()
    assert abs(gaussian.mean()) < 4 / math.sqrt(blocks * p)
    assert abs(gaussian.square().mean() - 1) < 4 * math.sqrt(2 / (blocks * p))


def test_its_columns_are_nearly_an_orthonormal_system() -> None:
    """A squared norm is the mean of n squares of N(0, 1) with some dependence: 1 within a few times sqrt(2 / n); so are products 0."""
    delta = make(200, Site("m", 0, "up", 60, 70, "linear"), NO_SCALARS)
    columns = projection(delta)
    gram = columns.T @ columns
    n = 60 * 70
    assert abs(gram.diagonal().mean() - 1) < 5 * math.sqrt(2 / n)
    assert (gram.diagonal() - 1).abs().max() < 6 * math.sqrt(2 / n)
    assert (gram - gram.diagonal().diag()).abs().max() < 7 * math.sqrt(1 / n)


def test_a_layer_s_scalar_multiplies_it() -> None:
    delta, plain = make(11), make(8, options=NO_SCALARS)
    z, scalars = delta.shared.get_parameter("z"), delta.shared.get_parameter("lambdas")
    assert (z.shape, scalars.shape) == ((8,), (3,))
    with torch.no_grad():
        plain.shared.get_parameter("z").copy_(z)
    assert_close(delta.dense(), scalars[1] * plain.dense())
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    assert_close(delta(x, SCALE), SCALE * torch.einsum("oi,bti->bto", delta.dense(), x))
    assert torch.autograd.gradcheck(lambda *tensors: delta(x, SCALE), (z, scalars))
    assert delta.factors() is None


def test_a_site_in_no_layer_has_no_scalar() -> None:
    delta, plain = make(11, OUTSIDE), make(8, OUTSIDE, NO_SCALARS)
    with torch.no_grad():
        plain.shared.get_parameter("z").copy_(delta.shared.get_parameter("z"))
    assert_close(delta.dense(), plain.dense())
    assert Subspace.shared_shapes([OUTSIDE], 5) == {"z": (5,)}


@pytest.mark.parametrize(
    ("rank", "options", "shapes"), [(4, {}, {"z": (1,), "lambdas": (3,)}), (4, NO_SCALARS, {"z": (4,)})]
)
def test_rank_is_all_that_trains(rank: int, options: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    sites = [OUTSIDE, SITE, Site("last", 2, "v", 4, 4, "linear")]
    assert Subspace.shared_shapes(sites, rank, options) == shapes
    assert all(Subspace.shapes(site, rank, options) == {} for site in sites)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_that_the_scalars_use_up_is_refused(rank: int) -> None:
    with pytest.raises(RecipeError, match=f"rank {rank} .* 3 layers") as caught:
        make(rank)
    assert (caught.value.problems[0].key, caught.value.problems[0].valid) == ("adapter.rank", "4 or more")


def test_a_subspace_of_more_numbers_than_the_weights_is_refused() -> None:
    assert Subspace.shared_shapes([SITE, OUTSIDE], 70, NO_SCALARS) == {"z": (70,)}
    with pytest.raises(RecipeError, match="rank 71 is more than the 70 numbers of the 2 adapted matrices") as caught:
        Subspace.shared_shapes([SITE, OUTSIDE], 71, NO_SCALARS)
    assert (caught.value.problems[0].key, caught.value.problems[0].valid) == ("adapter.rank", "70 or less")


def test_a_lower_rank_takes_the_first_directions() -> None:
    """As other shared tensors do: a recipe may give sites ranks of their own."""
    delta = make(11)
    lower = Subspace(SITE, 9, {}, delta.shared).double()
    plain = make(6, options=NO_SCALARS)
    with torch.no_grad():
        plain.shared.get_parameter("z").copy_(delta.shared.get_parameter("z")[:6])
    assert_close(lower.dense(), delta.shared.get_parameter("lambdas")[1] * plain.dense())


def test_directions_come_from_the_name_and_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make(8, options=NO_SCALARS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(make(8, options=NO_SCALARS).dense(), one.dense())
    assert not torch.isclose(make(8, options=NO_SCALARS | {"seed": 1}).dense(), one.dense()).any()
    assert not torch.isclose(make(8, Site("n", 1, "q", 5, 7, "linear"), NO_SCALARS).dense(), one.dense()).any()
    assert not one.state_dict()


def test_it_computes_in_its_own_precision_under_autocast() -> None:
    delta = make(11).float()
    delta.shared.float()
    exact = delta.dense()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(delta.dense(), exact)
