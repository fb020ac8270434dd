"""What the parts of a training cost beside each other: the arithmetic behind the overhead that `lorakit plan` predicts.

    forward    tokens (frozen + paths)
    step       tokens (frozen (DROPOUT + BACKWARD reach) + 3 paths (on + WATCHED watched))        reach: how deep its gradients go
    scoring    tokens (frozen (1 + BACKWARD) + 3 paths)                                           every site on, without dropout

With frozen lower layers a step is through the others alone, and so is the way back of a scoring pass.

The unit is a multiply-add of a wide matrix product. frozen: the weights of the layers; paths: THIN rank (in + out), summed over all
sites; 3: forward, the gradient of the input, those of A and B. What the constants say was measured on MiniLM in float32 on one CPU core,
at batch 8 and 32 with 64 tokens; scripts/search_overhead.py tells how far predictions are from what is measured. On a GPU, where small
operations cost relatively more, and for rows many times longer than a layer is wide, they are rough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.backbone.site import Site

BACKWARD = 1.05
"""The gradient of a frozen layer's input, in forward passes through it."""
DROPOUT = 1.08
"""A training step's forward pass with dropout (``training.dropout``), the head and the optimiser, in forward passes without."""
THIN = 3.3
"""A multiply-add with a matrix of few columns, in those of a wide one: it waits for memory."""
WATCHED = 1.4
"""A watched site's path, in paths of a site that is on: what it adds is written down apart."""
GRADIENT = 0.85
"""The gradient of a frozen weight, in forward passes through it: a product alone, without the norms and softmaxes on the way."""
SMALL = 4.5e5
"""A small tensor operation, however little it computes, in multiply-adds: some ten microseconds."""
SINGULAR, EIGEN = 7.0, 3.5
"""Singular values (float32) and eigenvalues (float64) of a matrix, in multiply-adds: times long * short^2."""
DRAWS = 256
"""How often rows are drawn to see how long the longest of a batch is."""


@dataclass(frozen=True)
class CostModel:
    """A training's model, batches and length, and what its parts cost in multiply-adds.

    frozen: weights of the layers; ranks: site -> rank; tokens: of a training batch with its padding; scored: of each batch that a
    search draws, the longest first; share: the budget's part of all sites' parameters; steps: of the training; accumulate: batches
    a step; parameters: of the model; below: the share of the layers that training steps leave out (``training.freeze_below``).
    """

    sites: Sequence[Site]
    ranks: Sequence[int]
    layers: int
    frozen: float
    parameters: int
    tokens: float
    scored: tuple[float, ...]
    share: float
    steps: int
    accumulate: int
    below: float = 0.0

    @property
    def paths(self) -> float:
        """Of a token, forward through all sites."""
        shapes = zip(self.sites, self.ranks, strict=True)
        return THIN * sum(rank * (site.in_features + site.out_features) for site, rank in shapes)

    def batch(self, on: float = 1.0, reach: float = 1.0, watched: float = 0.0) -> float:
        """A training batch, forward and backward, with these shares of the sites on and watched, down to ``reach`` of its layers."""
        frozen = self.frozen * (1 - self.below) * (DROPOUT + BACKWARD * reach)
        return self.tokens * (frozen + 3 * self.paths * (on + WATCHED * watched))

    def forward(self, batches: int | None = None) -> float:
        """The drawn batches (the first of them) through the model with every site on."""
        return sum(self.scored[:batches]) * (self.frozen + self.paths)

    def scoring(self, batches: int | None = None) -> float:
        """The same with the gradients of every site."""
        return sum(self.scored[:batches]) * (self.frozen * (1 + BACKWARD * (1 - self.below)) + 3 * self.paths)

    def of_weights(self) -> float:
        """The same with the gradients of the weights under the sites, in place of their A and B."""
        weights = sum(site.in_features * site.out_features for site in self.sites)
        return sum(self.scored) * (
            self.frozen * (1 + BACKWARD * (1 - self.below)) + GRADIENT * weights + 2 * self.paths
        )

    def covariances(self) -> float:
        """The same forward with the products of the sites' inputs, and the eigenvalues of those."""
        products = sum(site.in_features**2 for site in self.sites)
        return self.forward() + sum(self.scored) * products + EIGEN * sum(site.in_features**3 for site in self.sites)

    def spectra(self) -> float:
        """The singular values of all sites' matrices."""
        shapes = [sorted((site.in_features, site.out_features)) for site in self.sites]
        return SINGULAR * sum(long * short**2 for short, long in shapes)

    def small(self, operations: float) -> float:
        """So many small tensor operations at each site."""
        return SMALL * operations * len(self.sites)

    def lowest(self) -> float:
        """How deep gradients go, of all layers, where the sites that are on are drawn: down to the expected lowest one."""
        number = max(round(self.share * len(self.sites)), 1)
        return 1 - sum((1 - layer / self.layers) ** number for layer in range(1, self.layers)) / self.layers


def longest_rows(lengths: np.ndarray, batch_size: int, batches: int) -> list[float]:
    """Expected longest row of each of ``batches`` batches into which rows drawn from ``lengths`` are sorted, the longest first."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(lengths), (DRAWS, batches * batch_size))
    return [float(v) for v in -np.sort(-drawn, axis=1)[:, ::batch_size].mean(axis=0)]
