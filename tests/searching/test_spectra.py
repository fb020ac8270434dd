"""Whitened and cross-fitted spectra: against numpy, and on noise with and without a signal in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorakit.searching.site_moments import Seen
from lorakit.searching.spectra import DAMPING, cross_fitted, whitened

OUT, IN = 24, 32


def noise(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(OUT, IN)))


def test_white_is_what_is_over_the_roots_of_both_diagonals():
    gradient, inputs, outputs = noise(0), torch.rand(IN).double() + 0.1, torch.rand(OUT).double() + 0.1
    found = whitened(gradient, Seen(inputs, outputs))
    c = np.sqrt(inputs.numpy() + DAMPING * inputs.numpy().mean())
    g = np.sqrt(outputs.numpy() + DAMPING * outputs.numpy().mean())
    np.testing.assert_allclose(found.numpy(), gradient.numpy() / g[:, None] / c[None, :], rtol=1e-12)


def test_a_site_that_saw_nothing_stays_as_it_is():
    assert torch.equal(whitened(noise(0), Seen(torch.zeros(IN).double(), torch.zeros(OUT).double())), noise(0))


def test_both_halves_the_same_give_the_singular_values():
    np.testing.assert_allclose(cross_fitted(noise(1), noise(1), 9), np.linalg.svd(noise(1), compute_uv=False)[:9])


def test_each_half_judges_the_units_of_the_other():
    first, second = (noise(seed).numpy() + 3 * np.eye(OUT, IN) for seed in (2, 3))
    gains = []
    for a, b in ((first, second), (second, first)):
        u, s, vt = np.linalg.svd(a, full_matrices=False)
        gains.append([max(s[k] * (u[:, k] @ b @ vt[k]), 0) for k in range(OUT)])
    expected = np.minimum.accumulate(np.sqrt(np.mean(gains, axis=0)))
    np.testing.assert_allclose(cross_fitted(torch.from_numpy(first), torch.from_numpy(second), OUT), expected)


def test_noise_is_worth_little_and_a_signal_in_it_much():
    """The largest singular value of noise is near sqrt(out) + sqrt(in), as large as a strong signal's."""
    draw = np.random.default_rng(4)
    u, v = draw.normal(size=OUT), draw.normal(size=IN)
    signal = torch.from_numpy(12 * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v)))
    of_noise = float(np.mean([cross_fitted(noise(s), noise(100 + s), 1).item() for s in range(10, 20)]))
    of_signal = cross_fitted(signal + noise(5), signal + noise(6), 1).item()
    assert np.linalg.svd(noise(5), compute_uv=False)[0] == pytest.approx(np.sqrt(OUT) + np.sqrt(IN), rel=0.15)
    assert of_noise < 0.4 * (np.sqrt(OUT) + np.sqrt(IN))
    assert of_signal > 11
