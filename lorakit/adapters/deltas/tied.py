"""One LoRA for all layers, with vectors of each site's own (Tied-LoRA: Renduchintala et al. 2023).

dW = diag(b) B diag(d) A        A: rank x in, B: out x rank, shared and trained; d: rank, b: out of the site's own
                                rank (in + out) + sites * (rank + out) parameters a group

The paper's u and v are d and b here. Sites of one role and shape are one group. A is drawn, B starts at zero and the vectors at
one, so that dW = 0 everywhere until B has moved; a site that is switched on after that joins with the others' B at once.
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.delta import deltas
from lorakit.adapters.deltas.shared_vectors import SharedVectors
from lorakit.backbone.site import Site


class Tied(SharedVectors):
    """dW = diag(b) B diag(d) A with A and B shared by the sites of one role and shape, and trained."""

    name = "tied"
    free_rank: ClassVar = False
    starts: ClassVar = {"d": 1.0, "b": 1.0, "B": 0.0}

    @classmethod
    def group(cls, site: Site) -> str:
        """The role, and the shape of W."""
        return f"{site.role}-{site.out_features}x{site.in_features}"


deltas.register(Tied)
