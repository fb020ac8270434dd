"""For parametrisations whose tensors all have a start of their own: nothing is drawn here."""

from __future__ import annotations

from lorakit.adapters.delta import Delta
from lorakit.adapters.init import Init, InitContext, inits


def nothing(delta: Delta, context: InitContext) -> None:
    """Leave every tensor where the parametrisation put it."""


inits.register(Init("nothing", "None", "every tensor has a start of its own", "", nothing))
