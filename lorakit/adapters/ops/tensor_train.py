"""Matrices as tensor trains (Oseledets 2011): a chain of small cores instead of rows x columns numbers.

M (rows x columns), its rows and columns counted in several digits n_1 .. n_d:
M[i_1 .. i_d] = G_1[:, i_1, :] G_2[:, i_2, :] ... G_d[:, i_d, :]        G_k: t x n_k x t, but 1 at the two ends
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import nn

MOST_FACTORS = 4
LARGEST_FACTOR = 16
MOST_CORES = 2 * MOST_FACTORS
"""Of a matrix: the digits of its rows, then those of its columns."""


@cache
def digits_of(number: int) -> tuple[int, ...]:
    """``number`` as a product of digits, the largest first: the fewest of at most 16 each, and those as even as they can be.

    768 = 12 * 8 * 8. Four at most; where four do not make them small enough (a large prime), the smallest sum there is.
    """
    if number == 1:
        return (1,)
    best = [
        min(products, key=lambda digits: (max(digits), sum(digits)))
        for count in range(1, MOST_FACTORS + 1)
        if (products := list(factorisations(number, count)))
    ]
    chosen = next((digits for digits in best if max(digits) <= LARGEST_FACTOR), min(best, key=sum))
    return tuple(reversed(chosen))


def factorisations(number: int, count: int, smallest: int = 2) -> Iterator[tuple[int, ...]]:
    """Every way to write ``number`` as ``count`` factors from ``smallest`` on, in rising order."""
    if count == 1:
        if number >= smallest:
            yield (number,)
        return
    for first in range(smallest, math.isqrt(number) + 1):
        if first**count > number:
            return
        if number % first == 0:
            yield from ((first, *rest) for rest in factorisations(number // first, count - 1, first))


def core_shapes(rows: int, columns: int, tensor_rank: int) -> list[tuple[int, int, int]]:
    """The cores of a (rows x columns) matrix, those of its rows first."""
    digits = [*digits_of(rows), *digits_of(columns)]
    bonds = [1, *(tensor_rank for _ in digits[1:]), 1]
    return list(zip(bonds, digits, bonds[1:], strict=False))


def named_shapes(matrices: Mapping[str, tuple[int, int]], tensor_rank: int) -> dict[str, tuple[int, ...]]:
    """Core name -> shape for matrices by name: M's cores are M0, M1, ..."""
    return {
        f"{name}{k}": shape
        for name, (rows, columns) in matrices.items()
        for k, shape in enumerate(core_shapes(rows, columns, tensor_rank))
    }


def train_of(holder: nn.Module, matrix: str) -> list[torch.Tensor]:
    """The cores of ``matrix`` that ``holder`` has as parameters."""
    return [core for name, core in holder.named_parameters() if name.startswith(matrix)]


def product(cores: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
    """The matrix with ``rows`` rows that the cores stand for, in their own precision also under autocast: roundings would add up."""
    with torch.autocast(cores[0].device.type, enabled=False):
        chain = cores[0].flatten(0, 1)
        for core in cores[1:]:
            chain = (chain @ core.flatten(1)).view(-1, core.shape[2])
    return chain.view(rows, -1)


@torch.no_grad()
def draw(cores: Sequence[torch.Tensor], deviation: float, generator: torch.Generator) -> None:
    """Normal cores, of which each has its part in the ``deviation`` of their product's entries."""
    for core in cores:
        core.normal_(0.0, deviation ** (1 / len(cores)) / math.sqrt(core.shape[2]), generator=generator)


def with_its_train(core: torch.Tensor, generator: torch.Generator) -> None:
    """The start of a single core: none, for ``draw`` starts a whole train."""
