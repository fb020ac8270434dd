"""The search's diary: one record a tick, a line each in timeline.jsonl."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tick:
    """One search event.

    tick: counted from 0; step and epoch: when; proxy: what scored; scores: site -> score; on: the sites that train from here; ranks:
    site -> its live rank units, 0 where it is off; cut, margin: see Selection, None where no score decides; churn: share of the
    sites on before that went off (0 at the first tick); parameters: trained adapter parameters after it; budget: what was allowed;
    seconds: what the tick took; measured: what else the allocator had to tell.
    """

    tick: int
    step: int
    epoch: float
    proxy: str
    scores: dict[str, float]
    on: list[str]
    ranks: dict[str, int]
    cut: float | None
    margin: float | None
    churn: float
    parameters: int
    budget: int
    seconds: float
    measured: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; ``measured`` where there is something."""
        return {name: value for name, value in asdict(self).items() if name != "measured" or value}


def churn(before: list[str], after: list[str]) -> float:
    """The share of ``before`` that is no longer on."""
    return len(set(before) - set(after)) / len(before) if before else 0.0
