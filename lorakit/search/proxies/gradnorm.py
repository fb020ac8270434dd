"""Gradient norm: s = |dL/dA| + |dL/dB|, of the gradient summed over the scoring batches (HeteroLoRA, its GRAD-NORM proxy).

A site whose factors the loss pulls on hardest gets the budget. `search.norm: l1` takes sums of absolute values instead of
Frobenius norms. The scale alpha/r multiplies the score, so a shortcut with another alpha competes on unequal terms.
Cost: one forward and backward pass a batch. When to use it: the default.
"""

from lorakit.registry import proxies
from lorakit.search.scoring import Probe, Proxy


def gradnorm(probe: Probe) -> dict[str, float]:
    """Site -> the sum of its tensors' gradient norms."""
    order = 1 if probe.search.norm == "l1" else 2
    return {
        site: sum(float(gradient.norm(p=order)) for gradient in gradients.values())
        for site, gradients in probe.gradients().items()
    }


proxies.register(
    "gradnorm",
    Proxy(
        name="gradnorm",
        summary="|dL/dA| + |dL/dB|",
        source="HeteroLoRA (Zhang et al. 2024)",
        at_zero="dL/dA is exactly zero while B = 0, so the score is |dL/dB| alone",
        score=gradnorm,
        passes=lambda sites, batches: batches,
    ),
)
