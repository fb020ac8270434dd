"""Gradient norm: s = |dL/dA| + |dL/dB|, of the gradient summed over the scoring batches (HeteroLoRA, its GRAD-NORM proxy).

A site whose factors the loss pulls on hardest gets the budget. `norm: l1` (in `search.proxy_options`) takes sums of absolute
values instead of Frobenius norms. The scale alpha/r multiplies the score, so a shortcut with another alpha competes on unequal terms.
Cost: one forward and backward pass a batch. When to use it: the default.
"""

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.options import Option
from lorakit.searching.proxy import Gradients, Proxy, Scores, Settings, from_gradients, proxies


def gradnorm(adapted: AdaptedModel, gradients: Gradients, settings: Settings) -> Scores:
    """Site -> the sum of its tensors' gradient norms."""
    order = 1 if settings["norm"] == "l1" else 2
    return {site: sum(float(tensor.norm(p=order)) for tensor in own.values()) for site, own in gradients.items()}


proxies.register(
    Proxy(
        name="gradnorm",
        summary="|dL/dA| + |dL/dB|",
        source="HeteroLoRA (Zhang et al. 2024)",
        at_zero="dL/dA is exactly zero while B = 0, so the score is |dL/dB| alone",
        score=from_gradients(gradnorm),
        work=lambda cost_model: cost_model.scoring(),
        options={"norm": Option("l2", "of each tensor's gradient: l2 or l1", choices=("l2", "l1"))},
        reach=2.0,
        of_gradients=gradnorm,
    ),
)
