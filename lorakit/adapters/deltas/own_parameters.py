"""A module's own parameters, trained: copies stand in for the frozen ones while the site is on.

    p' = p + dp        as many parameters as the module's own, those of ``Site.parameters``

Nothing is added to the forward pass. Off, the module has its frozen parameters back.
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.options import NO_OPTIONS, Options
from lorakit.backbone.site import Site


class OwnParameters(Delta):
    """Trainable copies of the parameters that the site names."""

    name = "own_parameters"
    roles: ClassVar = {"weight": "weight", "bias": "bias"}
    starts: ClassVar = {"weight": lambda tensor, generator: None, "bias": lambda tensor, generator: None}
    free_rank: ClassVar = True
    kinds: ClassVar = ("module",)
    additive: ClassVar = False
    replaces_parameters: ClassVar = True

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """As the module has them."""
        return dict(site.parameters)

    @classmethod
    def role_of(cls, name: str) -> str:
        """bias for what is called so, weight for everything else."""
        return "bias" if name.endswith("bias") else "weight"


deltas.register(OwnParameters)
