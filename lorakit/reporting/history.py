"""A search's diary as arrays: sites by ticks, of what was on, how it was scored and what it cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorakit.backbone.guessing import guess_role
from lorakit.recipe.schema import SHORTCUTS

Numbers = NDArray[np.float64]
IN_A_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


@dataclass(frozen=True)
class SiteRecord:
    """What a run's files tell of one site.

    rank: its full rank; parameters: what it costs at that rank, 0 where the files do not say.
    """

    name: str
    layer: int
    role: str
    rank: int
    parameters: int

    @property
    def is_shortcut(self) -> bool:
        """Whether the site is a shortcut rather than a weight of the model."""
        return self.role in SHORTCUTS


def site_from_name(name: str, rank: int) -> SiteRecord:
    """As much of a site as its name gives away: the layer is its first number, the role its ending; the cost is unknown."""
    inside = IN_A_LAYER.search(name)
    if inside is None:
        return SiteRecord(name, -1, guess_role(name), rank, 0)
    layer, path = int(inside[1]), inside[2]
    return SiteRecord(name, layer, path if path in SHORTCUTS else guess_role(path), rank, 0)


@dataclass(frozen=True)
class TickRecord:
    """One tick: counted from 0, at ``step`` and ``epoch``, scored by ``proxy``; see lorakit.searching.timeline.Tick.

    cut: the lowest score that was on, None where sites have no scores; measured: what else the allocator told, name -> number.
    """

    tick: int
    step: int
    epoch: float
    proxy: str
    cut: float | None
    churn: float
    parameters: int
    budget: int
    seconds: float
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class History:
    """A search from its first tick to its last.

    live: (sites, ticks) rank units in training, 0 where a site is off; scores: (sites, ticks), NaN where there is none.
    Without a search there are no ticks, and one column that stands for the whole training.
    """

    sites: tuple[SiteRecord, ...]
    ticks: tuple[TickRecord, ...]
    live: Numbers
    scores: Numbers

    @property
    def steps(self) -> list[int]:
        """The optimiser steps that were done at each tick."""
        return [tick.step for tick in self.ticks]

    @property
    def scored(self) -> bool:
        """Whether sites have scores."""
        return bool(np.isfinite(self.scores).any())

    @cached_property
    def ranked(self) -> bool:
        """Whether ranks vary: a site was on with a part of its rank, or projections, or shortcuts, differ in theirs."""
        own = self._column("rank")
        shortcut = np.array([[site.is_shortcut] for site in self.sites]).reshape(-1, 1)
        alike = all(len(set(own[shortcut == kind])) < 2 for kind in (False, True))
        return not alike or bool(((self.live > 0) & (self.live != own)).any())

    @property
    def priced(self) -> bool:
        """Whether every site's cost is known."""
        return all(site.parameters for site in self.sites)

    @cached_property
    def on(self) -> NDArray[np.bool_]:
        """(sites, ticks) whether a site was in training from the tick on."""
        return self.live > 0

    @property
    def sites_on(self) -> list[int]:
        """How many sites were on from each tick on."""
        return [int(number) for number in self.on.sum(axis=0)]

    @cached_property
    def level(self) -> Numbers:
        """(sites, ticks) how much a site had: its live rank where ranks vary, else 1 or 0 for on and off."""
        return self.live if self.ranked else self.on.astype(float)

    @cached_property
    def unit_price(self) -> Numbers:
        """(sites,) parameters of one rank unit. Where not all costs are known, each site, or each unit where ranks vary, is 1."""
        rank = self._column("rank")[:, 0]
        if self.priced:
            return self._column("parameters")[:, 0] / rank
        return np.ones(len(self.sites)) if self.ranked else 1 / rank

    @cached_property
    def price(self) -> Numbers:
        """(sites,) what all would cost, treated alike: at full rank, or where ranks vary, at one rank for all."""
        return self.unit_price if self.ranked else self.unit_price * self._column("rank")[:, 0]

    @cached_property
    def spent(self) -> Numbers:
        """(sites, ticks) parameters in training, taken as proportional to the rank."""
        return self.live * self.unit_price[:, None]

    def _column(self, attribute: str) -> Numbers:
        return np.array([[float(getattr(site, attribute))] for site in self.sites]).reshape(-1, 1)


def read_history(timeline: Sequence[Mapping[str, Any]], sites: Iterable[SiteRecord]) -> History:
    """The history in these records of timeline.jsonl, over all ``sites`` that could be on.

    Raises KeyError, TypeError or ValueError where a record is not a tick's, or names a site that is not there.
    """
    records = tuple(sites)
    place = {site.name: row for row, site in enumerate(records)}
    live = np.zeros((len(records), len(timeline)))
    scores = np.full((len(records), len(timeline)), np.nan)
    for column, tick in enumerate(timeline):
        ranks = tick.get("ranks") or {}
        for name in tick["on"]:
            live[place[name], column] = ranks.get(name, records[place[name]].rank)
        for name, score in (tick["scores"] or {}).items():
            scores[place[name], column] = score
    return History(records, tuple(map(read_tick, timeline)), live, scores)


def without_search(sites: Iterable[SiteRecord], on: Iterable[str]) -> History:
    """The history of a training whose sites ``on`` were on all the time."""
    records, trained = tuple(sites), set(on)
    live = np.array([[float(site.rank if site.name in trained else 0)] for site in records]).reshape(-1, 1)
    return History(records, (), live, np.full(live.shape, np.nan))


def read_tick(tick: Mapping[str, Any]) -> TickRecord:
    """What a record tells beside its sites."""
    cut = tick.get("cut") if tick["scores"] else None
    return TickRecord(
        tick=int(tick["tick"]),
        step=int(tick["step"]),
        epoch=float(tick["epoch"]),
        proxy=str(tick["proxy"]),
        cut=None if cut is None else float(cut),
        churn=float(tick["churn"]),
        parameters=int(tick["parameters"]),
        budget=int(tick["budget"]),
        seconds=float(tick["seconds"]),
        measured={str(name): float(value) for name, value in (tick.get("measured") or {}).items()},
    )


def named_sites(timeline: Iterable[Mapping[str, Any]], rank: int) -> list[SiteRecord]:
    """Every site that the records of timeline.jsonl name, for a run that has not yet written which sites it has."""
    names = dict.fromkeys(name for tick in timeline for name in (*(tick["scores"] or ()), *tick["on"]))
    return [site_from_name(name, rank) for name in names]
