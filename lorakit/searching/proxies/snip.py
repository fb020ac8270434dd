"""SNIP: s = sum |A * dL/dA| + sum |B * dL/dB|, the loss's sensitivity to removing each weight (Lee et al. 2019, section 4.1).

Identically zero while B = 0, which makes the first choice random and, since only chosen sites ever get a B, keeps it forever. So by
default an untrained B counts with the magnitude that a random one of deviation 0.02 would have on average
(`search.untrained: expected`); `literal` is the formula as it stands. Trained sites keep an edge all the same: their B grows, and
with it their score, so later choices stay close to the first one.
Cost: one forward and backward pass a batch.
"""

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.recipe.schema import SearchSection
from lorakit.searching.scoring import Gradients, Proxy, from_gradients, proxies, saliency


def snip(adapted: AdaptedModel, gradients: Gradients, search: SearchSection) -> dict[str, float]:
    """Site -> sum |p * dL/dp| of its tensors."""
    return {site: saliency(adapted.adapters[site], own, search.untrained) for site, own in gradients.items()}


proxies.register(
    Proxy(
        name="snip",
        summary="sum |A * dL/dA| + sum |B * dL/dB|",
        source="Lee et al. 2019, section 4.1; HeteroLoRA",
        at_zero="an untrained B counts as a random one of deviation 0.02; with search.untrained: literal the score is zero",
        score=from_gradients(snip),
        work=lambda cost_model: cost_model.scoring(),
        reach=3.5,
        of_gradients=snip,
    ),
)
