"""The first singular triplets: against a matrix made of known ones, and where they are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lorakit.adapters import spectrum
from lorakit.adapters.delta import deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.method import resolve
from lorakit.adapters.spectrum import leading, trailing
from lorakit.backbone.quantised import Quantisation
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

OUT, IN, COUNT = 300, 260, 8


def made_of(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix (OUT x IN) with these singular values, and its vectors."""
    draw = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(OUT, IN, generator=draw, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(IN, IN, generator=draw, dtype=torch.float64)).Q
    return (u * values) @ v.T, u, v


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch):
    """Matrices of a few hundred rows are large ones."""
    monkeypatch.setattr(spectrum, "SMALL", 200)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_of_a_decaying_spectrum_they_are_found_to_float32(power: float):
    """Singular values k^-power: of the best approximation as little is missed as float32 rounds where they fall as 1/k or faster."""
    values = torch.arange(1, IN + 1, dtype=torch.float64) ** -power
    matrix, u, v = made_of(values)
    found, s, vt = leading(matrix.float(), COUNT, torch.Generator().manual_seed(1), exact=False)
    best = (u[:, :COUNT] * values[:COUNT]) @ v[:, :COUNT].T
    error = ((found * s @ vt).double() - best).norm() / best.norm()
    assert error < (1e-5 if power >= 1 else 1e-3)
    assert_close(s.double(), values[:COUNT], rtol=1e-4, atol=0)
    assert_close(found.T @ found, torch.eye(COUNT), rtol=0, atol=1e-5)
    assert_close(vt @ vt.T, torch.eye(COUNT), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_large")
def test_of_a_flat_spectrum_as_much_is_kept_as_there_is_to_keep():
    """A random matrix: its first directions are hardly more than others, so which they are is open, but not how much they hold."""
    matrix = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    _, s, _ = leading(matrix, COUNT, torch.Generator().manual_seed(1), exact=False)
    assert_close(s, torch.linalg.svdvals(matrix)[:COUNT], rtol=0.02, atol=0)


@pytest.mark.usefixtures("_large")
def test_the_seed_decides():
    matrix = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    one, again, other = (leading(matrix, COUNT, torch.Generator().manual_seed(k), exact=False)[0] for k in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("small", "exact", "count"), [(200, True, COUNT), (260, False, COUNT), (200, False, 30)])
def test_exact_on_request_for_small_matrices_and_where_it_is_no_slower(
    monkeypatch: pytest.MonkeyPatch, small: int, exact: bool, count: int
):
    """And then nothing is drawn: what was small before starts as it did."""
    monkeypatch.setattr(spectrum, "SMALL", small)
    matrix, draw = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    before = draw.get_state()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    for found, expected in zip(
        leading(matrix, count, draw, exact=exact), (u[:, :count], s[:count], v[:count]), strict=True
    ):
        assert torch.equal(found, expected)
    assert torch.equal(draw.get_state(), before)


@pytest.mark.parametrize("init", ["pissa", "loftq", "lq_fisher"])
def test_starts_from_first_triplets_decompose_no_large_matrix_unless_exactly(
    monkeypatch: pytest.MonkeyPatch, init: str
) -> None:
    """Of 300 x 260 numbers nothing is decomposed whose shorter side is above l = 2 k + 8; exact is the whole matrix."""
    monkeypatch.setattr(spectrum, "SMALL", 200)
    whole, seen = torch.linalg.svd, []

    def counted(matrix: torch.Tensor, **how: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        seen.append(min(matrix.shape))
        return whole(matrix, **how)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    for exact in (False, True):
        seen.clear()
        module = nn.Linear(IN, OUT).requires_grad_(False)
        delta = deltas.get("low_rank")(Site("m", 0, "q", IN, OUT, "linear"), COUNT)

        def put(wanted: torch.Tensor, module: nn.Linear = module) -> torch.Tensor:
            return Quantisation("int4").put(module, wanted)

        draw = torch.Generator().manual_seed(1)
        inits.get(init)(delta, InitContext(weight, 2.0, draw, fisher=weight**2, quantise=put, steps=2, exact=exact))
        assert {*seen} == {IN if exact else 2 * COUNT + 8}


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("turned", [False, True])
def test_the_last_ones_are_found_by_squares(turned: bool):
    """Of a matrix whose singular values fall to a millionth of the first, which is what float32 itself holds of it."""
    values = torch.logspace(0, -6, IN, dtype=torch.float64)
    matrix, u, v = made_of(values)
    expected = (u[:, -COUNT:] * values[-COUNT:]) @ v[:, -COUNT:].T
    left, s, right = trailing(matrix.T if turned else matrix, COUNT)
    found = (left * s) @ right
    assert (found.T if turned else found).sub(expected).norm() < 1e-4 * expected.norm()
    assert_close(s, values[-COUNT:], rtol=1e-4, atol=0)
    assert_close(left.T @ left, torch.eye(COUNT, dtype=torch.float64), rtol=0, atol=1e-4)
    assert trailing(matrix.float(), COUNT)[0].dtype == torch.float32


@pytest.mark.parametrize(("init", "looks"), [("kaiming", False), ("pissa", False), ("eva", True), ("lq_fisher", True)])
def test_batches_are_refused_where_no_data_are_looked_at(init: str, looks: bool) -> None:
    section = AdapterSection(init=init, init_batches=2)
    if looks:
        assert resolve(section).init == init
        return
    with pytest.raises(RecipeError, match=f"init '{init}' looks at no data: 2 batches have no effect") as caught:
        resolve(section)
    assert caught.value.problems[0].key == "adapter.init_batches"


@pytest.mark.parametrize("init", ["kaiming", "olora", "milora", "pissa", "lq_fisher"])
def test_exact_is_refused_where_nothing_is_found_in_another_way(init: str) -> None:
    section = AdapterSection(init=init, init_svd="exact")
    if init in ("pissa", "lq_fisher"):
        assert resolve(section).init == init
        return
    with pytest.raises(RecipeError, match=f"init '{init}' takes no first singular vectors") as caught:
        resolve(section)
    assert caught.value.problems[0].key == "adapter.init_svd"
