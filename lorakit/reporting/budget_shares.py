"""Who got the budget: its shares by role, by layer, by third of the layers, and of shortcuts against projections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lorakit.reporting.grid import layer_name, role_position
from lorakit.reporting.history import History, SiteRecord

THIRDS = ("first", "middle", "last")
ALIKE = 0.05


@dataclass(frozen=True)
class Share:
    """A group of sites over all ticks.

    sites: how many there are; on: the share of (site, tick) pairs that were on; rank: the mean live rank, 0 where off;
    budget: the group's share of all that was spent, summed over the ticks; even: the share it would have got had all sites been
    on, where ranks vary with one rank for all.
    """

    name: str
    sites: int
    on: float
    rank: float
    budget: float
    even: float

    @property
    def lift(self) -> float:
        """How many times its even share the group got."""
        return self.budget / self.even if self.even else 0.0


def group_shares(history: History, name_of: Callable[[SiteRecord], str], order: Sequence[str]) -> list[Share]:
    """The shares of the groups called ``order``; a site for which ``name_of`` gives none of these counts in the total only."""
    names = np.array([name_of(site) for site in history.sites])
    spent = history.spent.sum()
    found = []
    for name in order:
        rows = np.flatnonzero(names == name)
        if rows.size == 0:
            continue
        found.append(
            Share(
                name=name,
                sites=int(rows.size),
                on=float(history.on[rows].mean()),
                rank=float(history.live[rows].mean()),
                budget=float(history.spent[rows].sum() / spent) if spent else 0.0,
                even=float(history.price[rows].sum() / history.price.sum()),
            )
        )
    return found


def by_role(history: History) -> list[Share]:
    """One share per role, in the order in which a block computes them, shortcuts last."""
    return group_shares(
        history, lambda site: site.role, sorted({site.role for site in history.sites}, key=role_position)
    )


def by_layer(history: History) -> list[Share]:
    """One share per layer, ascending."""
    layers = sorted({site.layer for site in history.sites})
    return group_shares(history, lambda site: layer_name(site.layer), [layer_name(layer) for layer in layers])


def by_kind(history: History) -> list[Share]:
    """Projections and shortcuts; whatever else is adapted counts as a projection. Empty where there is only one kind."""
    found = group_shares(
        history, lambda site: "shortcuts" if site.is_shortcut else "projections", ("projections", "shortcuts")
    )
    return found if len(found) == 2 else []


def by_third(history: History) -> list[Share]:
    """The first, middle and last third of the layers, as even as whole layers allow. Empty for fewer than three layers."""
    thirds = layer_thirds(site.layer for site in history.sites)
    names = {layer: name for name, layers in thirds.items() for layer in layers}
    return group_shares(history, lambda site: names.get(site.layer, ""), list(thirds))


def layer_thirds(layers: Iterable[int]) -> dict[str, list[int]]:
    """``first``, ``middle`` and ``last`` -> their layers."""
    inside = sorted({layer for layer in layers if layer >= 0})
    if len(inside) < 3:
        return {}
    parts = np.array_split(np.array(inside), 3)
    return {name: [int(layer) for layer in part] for name, part in zip(THIRDS, parts, strict=True)}


@dataclass(frozen=True)
class ValueAgainstQuery:
    """Value against query projections.

    v and q: the mean over sites and ticks, of live ranks where ``ranked``, else of 1 for on and 0 for off; alike: whether they lie
    closer together than ALIKE, of the largest rank where ``ranked``; layers: that have both; layers_v and layers_q: in how many of
    them v, or q, got more.
    """

    v: float
    q: float
    ranked: bool
    alike: bool
    layers: int
    layers_v: int
    layers_q: int


def value_against_query(history: History) -> ValueAgainstQuery | None:
    """The comparison where both roles have sites and there was a tick."""
    if not history.ticks or not {"q", "v"} <= {site.role for site in history.sites}:
        return None
    mean = {(site.role, site.layer): float(row.mean()) for site, row in zip(history.sites, history.level, strict=True)}
    both = [layer for role, layer in mean if role == "q" and ("v", layer) in mean]
    v, q = (float(history.level[[site.role == role for site in history.sites]].mean()) for role in ("v", "q"))
    top = float(history.level.max()) if history.ranked else 1.0
    more = sum(mean["v", layer] > mean["q", layer] for layer in both)
    less = sum(mean["v", layer] < mean["q", layer] for layer in both)
    return ValueAgainstQuery(v, q, history.ranked, abs(v - q) < ALIKE * top, len(both), more, less)
