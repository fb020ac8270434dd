"""One random subspace for all adapted weights (Li et al. 2018, section 2; Aghajanyan et al. 2020, section 3).

dW = lambda P z, laid out as out x in        z: d - m, shared by all sites; lambda: one of m, a layer's; P: out in x (d - m), random, frozen

`rank` is d, the number of all that trains in the whole model: z, and the scalars of the m layers up to the last adapted one, which the
option `per_layer: false` leaves out (m = 0). z starts at 0 and lambda at 1. A site in no layer has no scalar.

P is ceil(n / p) blocks of Fastfood (Le, Sarlos and Smola 2013, arXiv 1408.3060), one below the other; n = out in, p = 2^ceil(log2(d - m)):

    P = [H G_1 Pi_1 H B_1; H G_2 Pi_2 H B_2; ...] / sqrt(n p)        cut to n rows and d - m columns
    H: p x p, Sylvester's, of +-1;  B: random signs;  Pi: a permutation;  G: N(0, 1)

A column's squared norm is 1 in the mean, so that a unit of z moves every matrix by a Frobenius norm of 1. P comes from the site's name
and the option `seed`, and is no part of a checkpoint. In memory it takes 9 bytes for each number of W; its product with z takes
2 n (a + b) multiplications, p = a b, as H is the Kronecker product of two small ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.basis import stream_of
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.shared import Shared
from lorakit.adapters.whole import Whole
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError

Tensor = torch.Tensor


class Subspace(Whole):
    """dW = lambda P z with z and the layers' lambda shared by all sites."""

    name = "subspace"
    roles: ClassVar = {}
    shared_roles: ClassVar = {"z": "vector", "lambdas": "gate"}
    starts: ClassVar = {"z": 0.0, "lambdas": 1.0}
    options: ClassVar = {
        "per_layer": Option(True, "a scalar for each layer, of the numbers that train"),
        "seed": Option(0, "what the random directions are drawn from, with the site's name"),
    }
    free_rank: ClassVar = True
    kinds: ClassVar = ("linear", "conv1d")
    shared: Shared
    signs: Tensor
    places: Tensor
    gaussian: Tensor
    h_a: Tensor
    h_b: Tensor

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__(site, rank, options, shared)
        scalars = sum(len(tensor) for name, tensor, _ in self.shared.tensors() if name == "lambdas")
        self.scaled = scalars > 0 <= site.layer
        self.columns = directions(rank, scalars)
        p = 2 ** (self.columns - 1).bit_length()
        blocks = -(-site.out_features * site.in_features // p)
        generator = stream_of(site.name, self.settings["seed"])
        signs = torch.randint(2, (blocks, p), generator=generator, dtype=torch.int8)
        places = torch.rand(blocks, p, generator=generator).argsort(dim=1, stable=True)
        places += p * torch.arange(blocks)[:, None]
        # in double first, whose logarithms and cosines are alike on all processors to the bits of float32
        gaussian = torch.randn(blocks, p, generator=generator, dtype=torch.float64)
        self.register_buffer("signs", signs.mul_(2).sub_(1), persistent=False)
        self.register_buffer("places", places.flatten().to(narrowest(blocks * p)), persistent=False)
        self.register_buffer("gaussian", gaussian.float(), persistent=False)
        a = 2 ** ((p.bit_length() - 1) // 2)
        self.register_buffer("h_a", sylvester(a), persistent=False)
        self.register_buffer("h_b", sylvester(p // a), persistent=False)

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """Nothing of its own."""
        return {}

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """z (rank - m), lambda (m). RecipeError where the scalars leave nothing to z, or where it is of more numbers than the weights."""
        if rank > (numbers := sum(site.out_features * site.in_features for site in sites)):
            what = f"rank {rank} is more than the {numbers:,} numbers of the {len(sites)} adapted matrices, which it is to be a subspace of"
            raise RecipeError(Problem(what, key="adapter.rank", valid=f"{numbers} or less"))
        scalars = 0
        if cls.settings_of(options)["per_layer"]:
            scalars = 1 + max(site.layer for site in sites)
        shapes: dict[str, tuple[int, ...]] = {"z": (directions(rank, scalars),)}
        return shapes | {"lambdas": (scalars,)} if scalars else shapes

    def whole(self, scale: float) -> Tensor:
        """``scale lambda P z`` (out x in), in the precision of G also under autocast."""
        out, inside = self.site.out_features, self.site.in_features
        blocks, p = self.signs.shape
        with torch.autocast(self.gaussian.device.type, enabled=False):
            z = self.shared.get_parameter("z")[: self.columns].to(self.gaussian.dtype)
            if self.scaled:
                z = z * self.shared.get_parameter("lambdas")[self.site.layer]
            z = F.pad(z * (scale / math.sqrt(out * inside * p)), (0, p - self.columns))
            rows = self.hadamard(self.signs * z).flatten().index_select(0, self.places)
            rows = self.hadamard(rows.view(blocks, p) * self.gaussian)
        return rows.flatten()[: out * inside].view(out, inside)

    def hadamard(self, rows: Tensor) -> Tensor:
        """H r for every row r (p): H_a R H_b for r laid out as R (a x b), as H is the Kronecker product of H_a and H_b."""
        a, b = len(self.h_a), len(self.h_b)
        inner = (rows.reshape(-1, b) @ self.h_b).view(-1, a, b).transpose(1, 2)
        outer = (inner.reshape(-1, a) @ self.h_a).view(-1, b, a).transpose(1, 2)
        return outer.reshape(rows.shape)


def directions(rank: int, scalars: int) -> int:
    """How many numbers of ``rank`` are z's. RecipeError where it is none."""
    if rank > scalars:
        return rank - scalars
    what = f"rank {rank} is all that trains, and each of the {scalars} layers up to the last adapted one has a scalar of its own"
    hint = "adapter.options={per_layer: false} has no scalars"
    raise RecipeError(Problem(what, key="adapter.rank", valid=f"{scalars + 1} or more", hint=hint))


def narrowest(count: int) -> torch.dtype:
    """The integers that number ``count`` places."""
    return torch.int32 if count <= torch.iinfo(torch.int32).max else torch.int64


def sylvester(size: int) -> Tensor:
    """The Hadamard matrix (size x size) for a power of two, which is its own transpose."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


deltas.register(Subspace)
