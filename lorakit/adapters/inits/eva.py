"""EVA's start: the directions in which the site's inputs vary most (Paischer et al. 2024, arXiv 2410.07170, section 3).

C = mean of x x^T, m = mean of x over calibration tokens        A = the first r eigenvectors of C - m m^T (orthonormal rows),  B = 0
Checked against the authors' code.
Differs from PEFT's code in: principal components come from all calibration tokens at once, where it (as the paper) finds the same
directions by incremental PCA until they stop turning; ranks are not redistributed over sites, as there with rho = 1: `search.method=eva`
does that.
"""

from __future__ import annotations

import torch

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


@torch.no_grad()
def eva(delta: Delta, context: InitContext) -> None:
    """A from the inputs' principal components, B zero."""
    assert context.covariance is not None
    assert context.mean is not None
    centred = context.covariance.double() - torch.outer(context.mean, context.mean).double()
    vectors = torch.linalg.eigh(centred).eigenvectors  # columns, ascending
    a = vectors[:, -delta.rank :].flip(1).T
    delta.set_factors(a.new_zeros(delta.site.out_features, delta.rank), a)


inits.register(
    Init(
        "eva",
        "EVA",
        "A = the first r principal components of the inputs, B = 0",
        "Paischer et al. 2024, section 3",
        eva,
        factors=True,
        zero="B",
        needs="covariance",
    ),
)
