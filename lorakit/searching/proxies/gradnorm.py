"""Gradient norm: s = |dL/dA| + |dL/dB|, of the gradient summed over the scoring batches (HeteroLoRA, its GRAD-NORM proxy).

A site whose factors the loss pulls on hardest gets the budget. `search.norm: l1` takes sums of absolute values instead of
Frobenius norms. The scale alpha/r multiplies the score, so a shortcut with another alpha competes on unequal terms.
Cost: one forward and backward pass a batch. When to use it: the default.
"""

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import SearchSection
from lorakit.searching.scoring import Gradients, Proxy, from_gradients, proxies


def gradnorm(adapted: AdaptedModel, gradients: Gradients, search: SearchSection) -> dict[str, float]:
    """Site -> the sum of its tensors' gradient norms."""
    order = 1 if search.norm == "l1" else 2
    return {site: sum(float(tensor.norm(p=order)) for tensor in own.values()) for site, own in gradients.items()}


proxies.register(
    Proxy(
        name="gradnorm",
        summary="|dL/dA| + |dL/dB|",
        source="HeteroLoRA (Zhang et al. 2024)",
        at_zero="dL/dA is exactly zero while B = 0, so the score is |dL/dB| alone",
        score=from_gradients(gradnorm),
        work=lambda cost_model: cost_model.scoring(),
        reach=2.0,
        of_gradients=gradnorm,
    ),
)
