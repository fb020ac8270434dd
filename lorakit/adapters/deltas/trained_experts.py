"""The adapters of finished runs side by side, of which every token takes its own mixture: what trains is the router.

dW x = sum_e p_e B_e A_e x, p = softmax(R x)        B_e A_e: the update of run e, its scale included;  R: experts x in
                                                    experts in parameters a site
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.experts import Experts
from lorakit.adapters.mixture import OfRuns


class TrainedExperts(OfRuns, Experts):
    """``experts`` whose A and B are those of finished runs."""

    name = "trained_experts"
    over_runs: ClassVar = "trained_experts"
    roles: ClassVar = {**OfRuns.roles, "R": Experts.roles["R"]}
    starts: ClassVar = {**OfRuns.starts, "R": Experts.starts["R"]}


deltas.register(TrainedExperts)
