"""A product B A in balanced form: the same matrix, its units orthogonal and sorted, and what that does to a gradient.

    B = Q_B R_B,   A^T = Q_A R_A,   R_B R_A^T = U S V^T        B: out x r, A: r x in; two thin QRs and an SVD of r x r
    B' = Q_B U S^1/2 = B T,         A' = S^1/2 V^T Q_A^T = T^-1 A
    T  = R_A^T V S^-1/2,            T^-1 = S^-1/2 U^T R_B      so that B' A' = B A, for every r and without forming B A

Unit i of B' A' is sigma_i times an outer product of unit vectors, and the first k units are the best approximation of rank k
(Eckart & Young 1936). Its column and row have the same length, sqrt(sigma_i): neither factor learns faster than the other.
With weights g (out,) and c (in,) the same is done to diag(g) B and A diag(c), so that the first k units are best where the square of
an entry of the error counts g_i^2 c_j^2; then a unit's column and row are brought to one length, which changes T by a diagonal.

Gradients go the other way round. From <dL/dB, dB> with dB = dB' T^-1, and from dA = T dA':

    dL/dB' = dL/dB T^-T             dL/dA' = T^T dL/dA         exact for a gradient, and for any mean of gradients (Adam's first moment)
    v_B'   = v_B (T^-T)^2           v_A'   = (T^T)^2 v_A       squares by entry: exact for the mean square where units' gradients are
                                                               uncorrelated, and then a step m / sqrt(v) grows at most sqrt(r) times

The last by Cauchy-Schwarz: |sum_j T_ji m_j| <= c sum_j |T_ji| sqrt(v_j) <= c sqrt(r) sqrt(sum_j T_ji^2 v_j). The derivation is ours.
Where a singular value is zero up to rounding, its unit has no direction to map: first moment zero, second the mean of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SMALLEST = 1e-7
"""Singular values below this part of the largest one are rounding of float32 factors."""

Tensor = torch.Tensor


@dataclass(frozen=True)
class Balanced:
    """The balanced form of a product, in float64 on the CPU.

    b is B' (out x r), a is A' (r x in); values (r,) fall, singular ones of the weighted product; turn is T, back is T^-1 (r x r), with
    zeros in the place of units without a direction.
    """

    b: Tensor
    a: Tensor
    values: Tensor
    turn: Tensor
    back: Tensor

    @property
    def has_direction(self) -> Tensor:
        """(r,) Which units are more than rounding."""
        return self.values > SMALLEST * self.values[:1]

    def mean_of_b(self, moment: Tensor) -> Tensor:
        """A mean of gradients of B (out x r) as one of B'."""
        return wide(moment) @ self.back.T

    def mean_of_a(self, moment: Tensor) -> Tensor:
        """A mean of gradients of A (r x in) as one of A'."""
        return self.turn.T @ wide(moment)

    def square_of_b(self, moment: Tensor) -> Tensor:
        """A mean of squared gradients of B as one of B', the units taken as uncorrelated."""
        return self.filled((wide(moment) @ self.back.T.square()).T).T

    def square_of_a(self, moment: Tensor) -> Tensor:
        """The same of A and A'."""
        return self.filled(self.turn.T.square() @ wide(moment))

    def filled(self, squares: Tensor) -> Tensor:
        """``squares`` (r x n) with the mean of the others in the place of units without a direction."""
        known = self.has_direction
        return torch.where(known[:, None], squares, squares[known].mean() if known.any() else 0.0)


@torch.no_grad()
def balance(b: Tensor, a: Tensor, outputs: Tensor | None = None, inputs: Tensor | None = None) -> Balanced:
    """The balanced form of b a, for b (out x r) and a (r x in) with r at most either width.

    outputs (out,) and inputs (in,): positive weights g and c; 1 where there are none.

    Example:
        >>> found = balance(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0, 3.0]]))
        >>> found.values, found.b @ found.a
        (tensor([6.], dtype=torch.float64), tensor([[0., 6.],
                [0., 0.]], dtype=torch.float64))
    """
    b, a = wide(b), wide(a)
    _, r_b = torch.linalg.qr(b if outputs is None else wide(outputs)[:, None] * b)
    _, r_a = torch.linalg.qr((a if inputs is None else a * wide(inputs)).T)
    u, values, vt = torch.linalg.svd(r_b @ r_a.T)
    there = values > SMALLEST * values[:1]
    inverse = torch.where(there, values.clamp_min(torch.finfo(values.dtype).tiny).rsqrt(), 0.0)
    turn, back = (r_a.T @ vt.T) * inverse, inverse[:, None] * (u.T @ r_b)
    lengths = (b @ turn).norm(dim=0), (back @ a).norm(dim=1)
    evened = torch.where(there, lengths[1] / lengths[0].clamp_min(torch.finfo(values.dtype).tiny), 1.0).sqrt()
    turn, back = turn * evened, back / evened[:, None]
    return Balanced(b @ turn, back @ a, values, turn, back)


def wide(tensor: Tensor) -> Tensor:
    """In double precision on the CPU: the same numbers for the same bits, whatever device trains."""
    return tensor.detach().cpu().double()
