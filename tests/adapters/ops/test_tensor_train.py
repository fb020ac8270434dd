"""Digits of widths, and products of cores against sums written out by hand."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import pytest
import torch

from lorakit.adapters.ops.tensor_train import core_shapes, digits_of, draw, product

WIDTHS = [
    2,
    3,
    8,
    12,
    16,
    18,
    32,
    48,
    64,
    96,
    100,
    128,
    300,
    312,
    384,
    512,
    768,
    1024,
    1152,
    1536,
    2304,
    3072,
    4096,
    11008,
]


@pytest.mark.parametrize(
    ("number", "digits"),
    [
        (1, (1,)),
        (5, (5,)),
        (8, (8,)),
        (16, (16,)),
        (64, (8, 8)),
        (384, (8, 8, 6)),
        (768, (12, 8, 8)),
        (97, (97,)),  # a prime
        (194, (97, 2)),
        (16**4, (16, 16, 16, 16)),
    ],
)
def test_known_digits(number: int, digits: tuple[int, ...]) -> None:
    assert digits_of(number) == digits


@pytest.mark.parametrize("width", WIDTHS)
def test_digits_are_the_fewest_small_ones_and_the_most_even(width: int) -> None:
    """By trying everything: no shorter product of numbers up to 16, and none as long with a smaller largest number."""
    digits = digits_of(width)
    assert math.prod(digits) == width
    assert len(digits) <= 4
    every = {
        count: [c for c in combinations_with_replacement(range(2, 17), count) if math.prod(c) == width]
        for count in range(1, 5)
    }
    shortest = next((products for products in every.values() if products), None)
    if shortest is not None:
        assert len(digits) == len(shortest[0])
        assert max(digits) == min(map(max, shortest))
    else:
        assert width == 11008  # 2^8 * 43
        assert digits == (43, 8, 8, 4)


def test_cores_are_chained_from_one_to_one() -> None:
    assert core_shapes(8, 384, 5) == [(1, 8, 5), (5, 8, 5), (5, 8, 5), (5, 6, 1)]
    assert core_shapes(3, 5, 2) == [(1, 3, 2), (2, 5, 1)]


def test_the_product_is_the_sum_over_all_bonds() -> None:
    """M[6 i + j, 4 k + l] = sum over a, b, c of G1[i, a] G2[a, j, b] G3[b, k, c] G4[c, l]; 48 = 8 * 6 and 32 = 8 * 4."""
    shapes = core_shapes(48, 32, 3)
    assert [n for _, n, _ in shapes] == [8, 6, 8, 4]
    torch.manual_seed(0)
    cores = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    expected = torch.einsum("xia,ajb,bkc,cly->ijkl", *cores).reshape(48, 32)
    torch.testing.assert_close(product(cores, 48), expected)
    entry = sum(
        cores[0][0, 7, a] * cores[1][a, 2, b] * cores[2][b, 5, c] * cores[3][c, 1, 0]
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    torch.testing.assert_close(product(cores, 48)[7 * 6 + 2, 5 * 4 + 1], entry)


def test_drawn_products_have_the_deviation_asked_for() -> None:
    """Over many draws: entries of one product depend on each other."""
    generator = torch.Generator().manual_seed(0)
    squares = []
    for _ in range(600):
        cores = [torch.empty(shape) for shape in core_shapes(8, 48, 5)]
        draw(cores, 0.3, generator)
        squares.append(product(cores, 8).square().mean())
    assert abs(torch.stack(squares).mean().sqrt() - 0.3) < 0.02
