"""Which matrix is kept in how many bits, under a budget for all of them (LQ-LoRA: Guo et al. 2023, arXiv 2311.12023, section 3.2).

    minimise  sum_ic x_ic e_ic    with  sum_c x_ic = 1,  sum_ic x_ic b_ic <= budget,  x_ic 0 or 1
    e_ic = |sqrt(F_i) (W_i - Q_c(W_i))|^2        F: how much the loss minds (the Fisher information), or 1 everywhere

i: the matrices, c: the ``PRECISIONS``; b_ic: bytes, scales and zero points counted as the paper counts them. It is an integer linear
programme, solved by scipy's HiGHS. Errors are those of rounding W itself, before any A and B.
Differs from the authors' code in: integers between the least and the largest of a group for their normal floats; 12 precisions for their
432, with scales in 8 bits alone; errors without the low-rank part, which theirs can take off; HiGHS for Gurobi.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.backbone.few_bits import Precision, dense, round_to
from lorakit.errors import RunError

PRECISIONS = tuple(Precision(bits, group) for bits, group in product((2, 3, 4, 8), (32, 64, 128)))
GAP, NODES = 1e-6, 300
"""How near to the least error is near enough, as a share of it, and how much of the solver's tree is searched: no clock, which would let
processes come to different ends."""
SPREAD = 1e4
"""The largest error, as the solver is told it: it takes what differs by 1e-6 for the same."""


@contextmanager
def nothing_printed() -> Iterator[None]:
    """What C code prints is lost: HiGHS says a line on standard output now and then, where a command's data go."""
    if sys.stdout is None or os.name != "posix":
        yield
        return
    from ctypes import CDLL

    libc = CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    held, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(held, 1)
        os.close(held)
        os.close(nowhere)


def squared_error(weight: torch.Tensor, precision: Precision, importance: torch.Tensor | float = 1.0) -> float:
    """|sqrt(F) (W - Q(W))|^2 of ``weight`` (out x in); importance: F, as large or a number."""
    lost = weight.float() - dense(round_to(weight, precision), weight.shape[1])
    return float((importance * lost.square_()).sum(dtype=torch.float64))


def sizes_of(shapes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Bytes (matrices x PRECISIONS) of matrices of these shapes (out, in)."""
    return np.array([[precision.bytes(*shape) for precision in PRECISIONS] for shape in shapes])


def possible_bits(shapes: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The fewest and the most bits a number that matrices of these shapes (out, in) can take."""
    sizes, numbers = sizes_of(shapes), sum(outside * inside for outside, inside in shapes)
    return 8 * int(sizes.min(axis=1).sum()) / numbers, 8 * int(sizes.max(axis=1).sum()) / numbers


@torch.no_grad()
def assign(
    weights: Mapping[str, torch.Tensor], bits: float, fisher: Mapping[str, torch.Tensor]
) -> dict[str, Precision]:
    """Name -> precision for ``weights`` (name -> out x in), of at most ``bits`` a number over all of them.

    fisher: name -> F (out x in), where it is known; a matrix without one counts as the mean of those that have one.
    """
    usual = float(np.mean([float(each.mean()) for each in fisher.values()])) if fisher else 1.0
    errors = np.array(
        [
            [squared_error(weight, precision, fisher.get(name, usual)) for precision in PRECISIONS]
            for name, weight in weights.items()
        ]
    )
    shapes = [(weight.shape[0], weight.shape[1]) for weight in weights.values()]
    budget = int(bits * sum(weight.numel() for weight in weights.values()) / 8)
    chosen = cheapest(errors, sizes_of(shapes), budget)
    return {name: PRECISIONS[place] for name, place in zip(weights, chosen, strict=True)}


def cheapest(errors: NDArray[np.float64], sizes: NDArray[np.int64], budget: int) -> list[int]:
    """A column for every row, so that the sum of ``errors`` is least and that of ``sizes`` no more than ``budget``, which the least fit.

    RunError where the solver gives up.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, kron

    rows, columns = errors.shape
    unit = int(
        np.gcd.reduce(sizes, axis=None)
    )  # whole numbers, and small ones, so that the solver's tolerance lets no byte through
    one_each = kron(eye_array(rows), np.ones((1, columns)))
    within = csr_array((sizes // unit).reshape(1, -1).astype(float))
    with nothing_printed():
        found = milp(
            SPREAD * errors.ravel() / max(errors.max(), np.finfo(float).tiny),
            integrality=np.ones(errors.size),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(within, ub=budget // unit)],
            options={"mip_rel_gap": GAP, "node_limit": NODES},
        )
    if found.x is None:
        raise RunError(
            "no way was found to keep all matrices within their bits a number",
            key="model.quantization_bits",
            hint="some more of them",
        )
    return [int(place) for place in found.x.reshape(rows, columns).argmax(axis=1)]
