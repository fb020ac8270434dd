"""LoRA's two factors as mixtures of random matrices (NOLA: Koohpayegani et al. 2024).

dW = B A,  A = A_0 + sum_i a_i A_i,  B = sum_j b_j B_j        A_0, A_i: rank x in, B_j: out x rank, random, frozen; a, b: k

2 k parameters whatever rank and widths are. a and b start at zero, so that dW = 0, and b learns through A_0. A_0 is
kaiming-uniform; the entries of A_i and B_j are U(-1, 1) / sqrt(k), so that k does not change what a learning rate means.

The random matrices are no part of a checkpoint: they come from the site's name and the option `seed`, the same in every process.
In memory they take k rank (in + out) floats a site, once (64 of rank 8 on a 384 x 384 matrix: 1.6 MB).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.shared import Shared
from lorakit.adapters.starts import linear_uniform
from lorakit.backbone.site import Site


class Basis(Factored):
    """dW = (sum_j b_j B_j) (A_0 + sum_i a_i A_i) with a and b (k) trained."""

    name = "basis"
    roles: ClassVar = {"a": "A", "b": "B"}
    starts: ClassVar = {"a": 0.0, "b": 0.0}
    options: ClassVar = {
        "bases": Option(64, "random matrices in each mixture (k)", low=1),
        "seed": Option(0, "what the random matrices are drawn from, with the site's name"),
    }
    a: nn.Parameter
    b: nn.Parameter
    a_0: torch.Tensor
    a_bases: torch.Tensor
    b_bases: torch.Tensor

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__(site, rank, options, shared)
        generator = stream_of(site.name, self.settings["seed"])
        self.register_buffer("a_0", torch.empty(rank, site.in_features), persistent=False)
        linear_uniform(self.a_0, generator)
        for name, shape in (("a_bases", (rank, site.in_features)), ("b_bases", (site.out_features, rank))):
            entries = torch.empty(self.settings["bases"], *shape).uniform_(-1, 1, generator=generator)
            self.register_buffer(name, entries / math.sqrt(len(entries)), persistent=False)

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """a (k), b (k)."""
        k = cls.settings_of(options)["bases"]
        return {"a": (k,), "b": (k,)}

    @classmethod
    def stuck(cls, trains: Callable[[str], bool]) -> str:
        """b alone: where a stays zero, A is A_0."""
        return "" if trains(cls.roles["b"]) else "b"

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out x rank) and A (rank x in), mixed in the coefficients' own precision also under autocast."""
        with torch.autocast(self.a.device.type, enabled=False):
            return (
                torch.einsum("k,kor->or", self.b, self.b_bases),
                self.a_0 + torch.einsum("k,kri->ri", self.a, self.a_bases),
            )


def stream_of(name: str, seed: int) -> torch.Generator:
    """A random stream of the site alone: always on the CPU, and never Python's ``hash``, which differs from run to run."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


deltas.register(Basis)
