"""Sites laid out as layers by roles: what the heat maps of the terminal and of the figures share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from lorakit.backbone.site import ROLES
from lorakit.recipe.schema import SHORTCUTS

ROLE_ORDER = (ROLES[0], ROLES[1], ROLES[2], "qkv", *ROLES[3:], "other", *SHORTCUTS)


class Located(Protocol):
    """What has a name and stands in a layer with a role: a site, or the record of one."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def layer(self) -> int: ...  # noqa: D102

    @property
    def role(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Grid:
    """Values by (layer, role). A missing pair means that there is no such site.

    layers: ascending, -1 for sites outside any layer; roles: in the order a block computes them, shortcuts last.
    """

    layers: tuple[int, ...]
    roles: tuple[str, ...]
    values: dict[tuple[int, str], float]

    def by_layer(self, layer: int) -> float:
        """The mean over a layer's cells."""
        return mean_of(value for (row, _), value in self.values.items() if row == layer)

    def by_role(self, role: str) -> float:
        """The mean over a role's cells."""
        return mean_of(value for (_, column), value in self.values.items() if column == role)

    def overall(self) -> float:
        """The mean over all cells."""
        return mean_of(self.values.values())


def site_grid(entries: Iterable[tuple[int, str, float]]) -> Grid:
    """The grid of (layer, role, value) entries; several entries of one cell give their mean."""
    cells: dict[tuple[int, str], list[float]] = {}
    for layer, role, value in entries:
        cells.setdefault((layer, role), []).append(value)
    layers = sorted({layer for layer, _ in cells})
    roles = sorted({role for _, role in cells}, key=role_position)
    return Grid(tuple(layers), tuple(roles), {cell: mean_of(values) for cell, values in cells.items()})


def role_position(role: str) -> tuple[int, str]:
    """Where a role stands among the columns; unknown roles come last, by name."""
    return (ROLE_ORDER.index(role) if role in ROLE_ORDER else len(ROLE_ORDER), role)


def layer_name(layer: int) -> str:
    """``layer 3``, or ``model`` for what belongs to no layer."""
    return f"layer {layer}" if layer >= 0 else "model"


def mean_of(values: Iterable[float]) -> float:
    """The mean; 0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
