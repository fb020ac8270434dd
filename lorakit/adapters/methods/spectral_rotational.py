"""Spectral Adapter, rotational: the first singular vectors rotated (Zhang and Pilanci 2024, arXiv 2405.13952, section 3).

    W = U S V^T,  W' = (U_r R_U) S_r (V_r R_V)^T + the rest of W        R = (I - Q) (I + Q)^-1,  Q: rank x rank, skew, 0 at start

rank (rank - 1) parameters a site, whatever its widths: the numbers above the diagonals of the two skew matrices. The subspaces
of U_r and V_r stay; only how they map onto one another changes. Ranks can be much higher than LoRA's. There is no alpha.
Merges exactly: W' = W + U_r (R_U S_r R_V^T - S_r) V_r^T, a LoRA of the same rank.
Differs from the authors' code in: theirs keeps 2 rank^2 numbers, the whole of matrices whose skew part is taken; the symmetric half never
matters and is not there. A rank of 1 has nothing to rotate and is refused.
When to use it: when the budget is far below LoRA's at the same rank.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="spectral_rotational",
        title="Spectral adapter, rotational",
        summary="(U_r R_U) S_r (V_r R_V)^T, R Cayley rotations",
        source="Zhang and Pilanci 2024, section 3",
        delta="spectral_rotational",
        init="nothing",
        scale="none",
        rank=16,
        lr=0.001,
    ),
)
