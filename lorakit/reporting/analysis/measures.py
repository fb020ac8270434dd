"""What is measured on one update dW = W' - W (out x in), on two of them, and on features, each with what chance alone gives.

All take and give float64. Directions are columns; singular values fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Tensor = torch.Tensor
Numbers = NDArray[np.float64]

MOST = 64
"""Directions that are looked at, at most: the larger of the two ranks in the LoRA paper's section 7."""
ROUNDING = torch.finfo(torch.float32).eps  # of the tensors that an update is made of
SHUFFLES = 10  # of rows, for what chance does to CKA


@dataclass(frozen=True)
class Directions:
    """An update's singular values (all, largest first) and its first k directions: u (out x k) on its outputs, v (in x k) on its inputs."""

    values: Tensor
    u: Tensor
    v: Tensor

    @property
    def count(self) -> int:
        """k: the rank of the update, at most ``MOST``."""
        return self.u.shape[1]

    @property
    def rank(self) -> int:
        """How many singular values there are."""
        return len(self.values)


def directions_of(update: Tensor | tuple[Tensor, Tensor]) -> Directions:
    """Those of dW (out x in), or of b a for factors b (out x r) and a (r x in), without making it dense.

    Singular values within rounding of zero are none: those below max(out, in) * 2^-23 of the largest, as numpy's ``matrix_rank`` has it.

    Example:
        >>> directions_of(torch.diag(torch.tensor([3.0, 2.0, 0.0]))).values.tolist()
        [3.0, 2.0]
    """
    if isinstance(update, tuple):
        b, a = (factor.double() for factor in update)
        left, inner = torch.linalg.qr(b)
        right, outer = torch.linalg.qr(a.T)
        u, s, vh = torch.linalg.svd(inner @ outer.T, full_matrices=False)
        u, v, longest = left @ u, right @ vh.T, max(b.shape[0], a.shape[1])
    else:
        u, s, vh = torch.linalg.svd(update.double(), full_matrices=False)
        v, longest = vh.T, max(update.shape)
    rank = int((s > s[:1] * longest * ROUNDING).sum())
    kept = min(rank, MOST)
    return Directions(s[:rank], u[:, :kept], v[:, :kept])


def rows_of(factor: Tensor) -> Tensor:
    """The directions that the rows of A (r x in) span, the strongest first (in x k): its right singular vectors."""
    return directions_of(factor).v


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of p_i = s_i / sum s (Roy and Vetterli 2007, definition 1): k for k equal values, 1 for one.

    Example:
        >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0])), 6)
        3.0
    """
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def similarity(first: Tensor, second: Tensor) -> Numbers:
    """phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j) (Hu et al. 2021, section 7.2, equation 4), for orthonormal columns of (d x m) and (d x n).

    Returns:
        (m x n), entry [i-1, j-1] for the first i and the first j columns: the mean squared cosine of their principal angles; 0 to 1.
    """
    cosines: Numbers = (first.T @ second).square().numpy()
    return cosines.cumsum(axis=0).cumsum(axis=1) / smaller_of(*cosines.shape)


def chance_similarity(m: int, n: int, width: int) -> Numbers:
    """The mean of ``similarity`` over random subspaces of R^width (m x n): E ||U_i^T V_j||^2 = i j / d, so that phi is max(i, j) / d."""
    i, j = np.ogrid[1 : m + 1, 1 : n + 1]
    return np.asarray(i * j / width / smaller_of(m, n), dtype=np.float64)


def smaller_of(m: int, n: int) -> Numbers:
    """min(i, j) for i = 1..m and j = 1..n (m x n)."""
    i, j = np.ogrid[1 : m + 1, 1 : n + 1]
    return np.minimum(i, j).astype(np.float64)


@dataclass(frozen=True)
class Emphasis:
    """How much of W lies in some directions: ||U^T W V||_F for U and V of k columns each.

    own: dW's first k directions; top: W's own, which is the most there can be; chance: random ones, the root of the mean square.
    """

    own: float
    top: float
    chance: float


def emphasis(weight: Tensor, found: Directions) -> Emphasis:
    """That of W (out x in) in the directions of its update (Hu et al. 2021, section 7.3, table 7).

    W's own first k give sqrt(s_1^2 + ... + s_k^2) of its singular values; random subspaces k ||W||_F / sqrt(out in).
    """
    weight, k = weight.double(), found.count
    own = torch.linalg.norm(found.u.T @ weight @ found.v)
    top = torch.linalg.svdvals(weight)[:k].norm()
    return Emphasis(float(own), float(top), float(k * weight.norm() / weight.numel() ** 0.5))


def change(before: Tensor, after: Tensor) -> tuple[float, float]:
    """(dM, dD) of W0 and W (out x in): mean_n | |w_n| - |w0_n| | and mean_n (1 - cos(w_n, w0_n)) (Liu et al. 2024, section 3.2).

    n runs over the rows, whose norms DoRA's magnitude holds here as in PEFT: the weights of one output. A row that is zero has no
    direction and is left out of dD.

    Example:
        >>> change(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
        (1.0, 1.0)
    """
    old, new = before.norm(dim=1), after.norm(dim=1)
    turned = 1 - torch.nn.functional.cosine_similarity(before, after, dim=1)
    there = (old > 0) & (new > 0)
    return float((new - old).abs().mean()), float(turned[there].mean()) if there.any() else 0.0


def random_update(shape: tuple[int, int], rank: int, generator: torch.Generator) -> Tensor:
    """A Gaussian matrix (out x in) of this rank and of Frobenius norm 1: what an update of no meaning looks like."""
    out, inside = shape
    if rank >= min(shape):
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    else:
        drawn = torch.randn(out, rank, generator=generator, dtype=torch.float64)
        drawn = drawn @ torch.randn(rank, inside, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm()


def correlation(first: list[float], second: list[float]) -> float | None:
    """Pearson's; None of fewer than three points, and where one of the two does not vary."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def linear_cka(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Linear CKA of features X (n x p) and Y (n x q), and what it is of rows that do not belong together.

    ||Yc^T Xc||_F^2 / (||Xc^T Xc||_F ||Yc^T Yc||_F), columns centred (Kornblith et al. 2019, section 3): 1 for features that are the
    same but for a rotation, a shift and one scale. Few rows of many features are never at 0: the second number is the mean over
    ``SHUFFLES`` orders of Y's rows.
    """
    k, m = (gram(features) for features in (first, second))
    scale = k.norm() * m.norm()
    if scale == 0:
        return 1.0, 1.0
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(m), generator=generator) for _ in range(SHUFFLES)]
    shuffled = [float((k * m[order][:, order]).sum() / scale) for order in orders]
    return float((k * m).sum() / scale), float(np.mean(shuffled))


def gram(features: Tensor) -> Tensor:
    """X X^T (n x n) of features (n x p) with centred columns."""
    centred = features.double() - features.double().mean(dim=0)
    return centred @ centred.T
