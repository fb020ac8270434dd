"""Constant: every site scores the same, so the choice is random, drawn anew at each tick from the search's stream.

The control that every other proxy must beat. Cost: none.
"""

from lorakit.registry import proxies
from lorakit.search.scoring import Probe, Proxy


def constant(probe: Probe) -> dict[str, float]:
    """Site -> 1."""
    return dict.fromkeys(probe.adapted.adapters, 1.0)


proxies.register(
    "constant",
    Proxy(
        name="constant",
        summary="1 for every site: a random choice",
        source="HeteroLoRA (Zhang et al. 2024)",
        at_zero="does not look at B",
        score=constant,
        passes=lambda sites, batches: 0,
    ),
)
