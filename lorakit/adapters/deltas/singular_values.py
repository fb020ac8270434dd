"""The singular values of W, moved (SAM-PARSER: Peng et al. 2023; SVDiff: Han et al. 2023).

W = U diag(s) V^T,  k = min(in, out) values        dW = U diag(f(s + d) - s) V^T        d: k, starts at 0

link `linear`: f is the identity, so that a singular value may become negative; `relu`: f = max(0, .), so that it may not.
The sum W + dW keeps W's own rounding, which U diag(s) V^T would not. U, s and V are not saved but derived from W anew whenever
a model is built: two machines' decompositions may differ where singular values are (nearly) equal, and only there, because
``decompose`` fixes the signs. They take k (in + out + 1) numbers of memory beside W.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.backbone.site import Site

Tensor = torch.Tensor


@torch.no_grad()
def decompose(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (out x k), s (k) descending and V^T (k x in); each column of U has its largest entry positive, which fixes its sign."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    largest = u.gather(0, u.abs().argmax(dim=0, keepdim=True))[0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(u.dtype)
    return u * signs, s, signs[:, None] * v


class Decomposed(Delta):
    """A delta that has the ``kept`` largest singular triplets of W beside its tensors."""

    kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d")
    u: Tensor
    s: Tensor
    v: Tensor

    def kept(self) -> int:
        """How many triplets."""
        return self.rank

    def prepare(self, weight: Tensor | None) -> None:
        """u (out x kept), s (kept) and v (kept x in)."""
        assert weight is not None  # it sits on no shortcut
        u, s, v = decompose(weight)
        kept = self.kept()
        for name, part in (("u", u[:, :kept]), ("s", s[:kept]), ("v", v[:kept])):
            self.register_buffer(name, part.contiguous(), persistent=False)


class SingularValues(Decomposed):
    """dW = U diag(f(s + d) - s) V^T with d (min(in, out))."""

    name = "singular_values"
    roles: ClassVar = {"d": "vector"}
    starts: ClassVar = {"d": 0.0}
    options: ClassVar = {
        "link": Option("linear", "f of the new singular value: itself, or max(0, it)", choices=("linear", "relu"))
    }
    free_rank: ClassVar = True
    keeps_dense: ClassVar = "keeps all singular vectors of the dense weight"
    d: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """d (min(in, out))."""
        return {"d": (min(site.in_features, site.out_features),)}

    def kept(self) -> int:
        """All of them."""
        return min(self.site.in_features, self.site.out_features)

    def shift(self) -> Tensor:
        """f(s + d) - s (k), exactly zero where d is."""
        return self.d if self.settings["link"] == "linear" else F.relu(self.s + self.d) - self.s

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """``U (scale (f(s + d) - s) * V^T x)``."""
        return F.linear(F.linear(x, self.v) * (scale * self.shift()), self.u)

    def dense(self) -> Tensor:
        """U diag(f(s + d) - s) V^T (out x in)."""
        return (self.u * self.shift()) @ self.v


deltas.register(SingularValues)
