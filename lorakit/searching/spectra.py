"""Singular values of a weight's gradient that are compared between sites: whitened, and judged on rows that they did not come from.

    whitened      Gw_ij = G_ij / sqrt(g_i c_j)      c: mean squares of the site's inputs, g: of its output's gradients, so that noise is
                                                    alike in all entries and in all sites (Martens and Grosse 2015, sections 3 and 4)
    cross-fitted  value_k^2 = mean over both ways of max(sigma_k u_k' G2 v_k, 0)     of G1 = U S V^T by one half of the rows, G2 by the
                                                    other: what a step along unit k gains on rows that did not choose it

The largest singular values of pure noise are far above zero, and the larger the matrix the more; on other rows they are worth nothing.
"""

from __future__ import annotations

import torch

from lorakit.searching.site_moments import Seen

DAMPING = 0.01
"""Added to each diagonal, over its mean: an input that is nearly always zero would count for ever."""


def whitened(gradient: torch.Tensor, seen: Seen) -> torch.Tensor:
    """The gradient (out, in) over the roots of the site's mean squares of output gradients and inputs."""
    scales = []
    for diagonal in (seen.gradients, seen.inputs):
        damped = diagonal + DAMPING * diagonal.mean()
        scales.append(torch.where(damped > 0, damped, 1.0).rsqrt().to(gradient))
    of_outputs, of_inputs = scales
    return of_outputs[:, None] * gradient * of_inputs[None, :]


def cross_fitted(first: torch.Tensor, second: torch.Tensor, number: int) -> torch.Tensor:
    """The first ``number`` values (number,), falling, of the gradients (out, in) by two halves of the rows."""
    gains = [judged(first, second, number), judged(second, first, number)]
    values: torch.Tensor = torch.stack(gains).mean(dim=0).sqrt()
    return values.cummin(dim=0).values


def judged(chosen_by: torch.Tensor, other: torch.Tensor, number: int) -> torch.Tensor:
    """max(sigma_k u_k' G v_k, 0) of the units of one gradient on another (number,)."""
    u, values, vt = torch.linalg.svd(chosen_by, full_matrices=False)
    return (values * torch.einsum("ok,oi,ki->k", u, other, vt)).clamp_min(0.0)[:number]
