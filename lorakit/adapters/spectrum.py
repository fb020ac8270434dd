"""The first singular triplets of a matrix, or the last, for starts that look no further.

W = U S V^T        U_k (out x k), S_k (k,), V_k^T (k x in)

Of a large matrix they are found in a few products with thin ones (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1): the range
of (W W^T)^q W Omega, Omega (in x l) random, holds the first k directions to (s_{l+1} / s_k)^(2q+1). Exact is what LAPACK finds, in
time that grows with the cube of the size.

The last ones are exact: of a large matrix eigenvectors V_k of W^T W in float64, its shorter side's, with U_k S_k = W V_k. The squares
leave of a singular value s what 1e-16 S_1^2 / s is, which is less than what float32 leaves of a decomposition of W itself.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

SMALL = 1024
"""A matrix whose shorter side is no longer is decomposed exactly."""
PASSES = 8
"""q, how often the range is multiplied by W W^T; PEFT's precedent is 4 (``pissa_niter_4``), without more columns than the rank."""
THIN = 8
"""The shorter side is at least so many times l: else exact is no slower."""


@torch.no_grad()
def leading(matrix: Tensor, count: int, generator: torch.Generator, *, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(U_k, S_k, V_k^T) for the ``count`` largest singular values of ``matrix`` (out x in), largest first.

    exact: by a whole decomposition whatever the size; else ``generator`` draws Omega, and the same seed gives the same triplets.
    """
    columns = 2 * count + 8
    if exact or min(matrix.shape) <= SMALL or min(matrix.shape) < THIN * columns:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    else:
        drawn = torch.randn(matrix.shape[1], columns, generator=generator, dtype=matrix.dtype).to(matrix.device)
        basis = orthonormal(matrix @ drawn)
        for _ in range(PASSES):
            basis = orthonormal(matrix @ orthonormal(matrix.T @ basis))
        inner, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        u = basis @ inner
    return u[:, :count], s[:count], v[:count]


@torch.no_grad()
def trailing(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(U_k, S_k, V_k^T) for the ``count`` smallest singular values of ``matrix`` (out x in), the smallest last."""
    if min(matrix.shape) <= SMALL:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, -count:], s[-count:], v[-count:]
    from scipy.linalg import eigh

    wide = matrix.shape[1] > matrix.shape[0]
    tall = (matrix.T if wide else matrix).double().cpu()
    gram = (tall.T @ tall).numpy()
    _, vectors = eigh(gram, subset_by_index=[0, count - 1], driver="evr", overwrite_a=True, check_finite=False)
    right = torch.from_numpy(vectors[:, ::-1].copy())
    products = tall @ right
    s = products.norm(dim=0)
    left = products / s.clamp_min(torch.finfo(s.dtype).tiny)
    u, v = (right, left) if wide else (left, right)
    return u.to(matrix), s.to(matrix), v.T.to(matrix)


def orthonormal(tall: Tensor) -> Tensor:
    """An orthonormal basis of its columns' span."""
    return torch.linalg.qr(tall).Q
