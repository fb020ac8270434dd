"""The first singular vectors of W, rotated among themselves (Spectral Adapter: Zhang and Pilanci 2024, section 3).

W = U S V^T        W' = (U_r R_U) S_r (V_r R_V)^T + the rest of W        R = (I - Q) (I + Q)^-1 with Q skew (Cayley)
                   dW = U_r (R_U S_r R_V^T - S_r) V_r^T

A skew Q has rank (rank - 1) / 2 numbers, the ones above its diagonal, and that is what trains: rank (rank - 1) a site for the
two. Written with E = R - I = -2 (I + Q)^-1 Q, the middle is E_U S + S E_V^T + E_U S E_V^T: exactly zero at Q = 0, and not a
difference of large numbers. U_r, S_r and V_r are not saved but derived from W anew whenever a model is built (see
``singular_values``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.singular_values import Decomposed
from lorakit.adapters.factored import Factored
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site

Tensor = torch.Tensor


def turn(above: Tensor, rank: int) -> Tensor:
    """R - I (rank x rank), for the numbers above the diagonal of the skew Q, row by row."""
    rows, columns = torch.triu_indices(rank, rank, 1, device=above.device)
    upper = above.new_zeros(rank, rank).index_put((rows, columns), above)
    skew = upper - upper.T
    return torch.linalg.solve(torch.eye(rank, dtype=above.dtype, device=above.device) + skew, -2 * skew)


class SpectralRotational(Decomposed, Factored):
    """dW = U_r (R_U S_r R_V^T - S_r) V_r^T, for two skew matrices of rank (rank - 1) / 2 numbers each."""

    name = "spectral_rotational"
    roles: ClassVar = {"left": "rotation", "right": "rotation"}
    starts: ClassVar = {"left": 0.0, "right": 0.0}
    left: nn.Parameter
    right: nn.Parameter

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """left and right (rank (rank - 1) / 2)."""
        above = rank * (rank - 1) // 2
        return {"left": (above,), "right": (above,)}

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """One vector alone cannot be rotated."""
        return "a rotation needs a rank of 2 or more" if rank < 2 else ""

    def core(self) -> Tensor:
        """R_U S R_V^T - S (rank x rank), never in autocast's half precision."""
        with torch.autocast(self.s.device.type, enabled=False):
            left, right = turn(self.left, self.rank), turn(self.right, self.rank)
            turned = left * self.s
            return turned + self.s[:, None] * right.T + turned @ right.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """U_r core, and V_r^T."""
        return self.u @ self.core(), self.v


deltas.register(SpectralRotational)
