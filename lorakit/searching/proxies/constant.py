"""Constant: every site scores the same, so the choice is random, drawn anew at each tick from the search's stream.

The control that every other proxy must beat. Cost: none.
"""

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import SearchSection
from lorakit.searching.scoring import Gradients, Proxy, proxies


def constant(adapted: AdaptedModel, gradients: Gradients, search: SearchSection) -> dict[str, float]:
    """Site -> 1."""
    return dict.fromkeys(adapted.adapters, 1.0)


proxies.register(
    Proxy(
        name="constant",
        summary="1 for every site: a random choice",
        source="HeteroLoRA (Zhang et al. 2024)",
        at_zero="does not look at B",
        score=lambda probe: constant(probe.adapted, {}, probe.search),
        work=lambda cost_model: 0.0,
        of_gradients=constant,
    ),
)
