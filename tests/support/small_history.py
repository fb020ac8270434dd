"""A search over nine sites and three ticks whose shares are worked out by hand.

Three layers with q and v (100 parameters each) and res1 (200 each), 1,200 in all. Spent: 500 + 600 + 500 = 1,600, of which
v 7 x 100, q 1 x 100, res1 4 x 200; layer 0 100, layer 1 500, layer 2 1,000.
"""

from __future__ import annotations

from typing import Any

from lorakit.reporting.history import History, SiteRecord, read_history

SITES = [
    SiteRecord(f"layer.{layer}.{role}", layer, role, rank=4, parameters=200 if role == "res1" else 100)
    for layer in range(3)
    for role in ("q", "v", "res1")
]
WORST_FIRST = ["0.q", "1.q", "0.res1", "1.res1", "2.q", "0.v", "1.v", "2.v", "2.res1"]


def swapped(order: list[str], a: str, b: str) -> list[str]:
    """The order with two entries changed for each other."""
    return [{a: b, b: a}.get(name, name) for name in order]


def tick(number: int, worst_first: list[str], on: str, churn: float, parameters: int) -> dict[str, Any]:
    """A record of timeline.jsonl whose scores are 1 to 9."""
    return {
        "tick": number,
        "step": 10 * number,
        "epoch": 0.5 * number,
        "proxy": "gradnorm",
        "scores": {f"layer.{name}": float(place) for place, name in enumerate(worst_first, 1)},
        "on": [f"layer.{name}" for name in on.split()],
        "cut": 5.0,
        "margin": 1.0,
        "churn": churn,
        "parameters": parameters,
        "budget": 650,
        "seconds": 0.5,
    }


SECOND = swapped(WORST_FIRST, "0.v", "1.res1")  # two places apart: sum of squared rank differences 2 * 2^2
TIMELINE = [
    tick(0, WORST_FIRST, "0.v 1.v 2.v 2.res1", 0.0, 500),
    tick(1, SECOND, "1.v 1.res1 2.v 2.res1", 0.25, 600),
    tick(2, swapped(SECOND, "1.res1", "2.q"), "1.v 2.q 2.v 2.res1", 0.25, 500),  # neighbours: 2 * 1^2
]
CORRELATIONS = [1 - 6 * 8 / (9 * 80), 1 - 6 * 2 / (9 * 80)]  # 1 - 6 sum d^2 / (n (n^2 - 1))


def small_history() -> History:
    """The history of these ticks."""
    return read_history(TIMELINE, SITES)


def ranked_history() -> History:
    """Two sites of rank 4 with live ranks (4, 2), then (1, 4); without scores."""
    records = [
        {**tick(number, [], "0.q 0.v", 0.0, 100), "scores": {}, "cut": None, "ranks": {"layer.0.q": q, "layer.0.v": v}}
        for number, (q, v) in enumerate([(4, 2), (1, 4)])
    ]
    return read_history(records, SITES[:2])
