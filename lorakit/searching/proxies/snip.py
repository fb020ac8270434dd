"""SNIP: s = sum |A * dL/dA| + sum |B * dL/dB|, the loss's sensitivity to removing each weight (Lee et al. 2019, section 4.1).

Identically zero while B = 0, which makes the first choice random and, since only chosen sites ever get a B, keeps it forever. So by
default an untrained B counts with the magnitude that a random one of deviation 0.02 would have on average
(`untrained: expected`, in `search.proxy_options`); `literal` is the formula as it stands. Trained sites keep an edge all the same:
their B grows, and with it their score, so later choices stay close to the first one.
Cost: one forward and backward pass a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.options import Option
from lorakit.searching.proxy import Gradients, Proxy, Scores, Settings, from_gradients, proxies

TYPICAL_B = 0.02 * math.sqrt(2 / math.pi)
"""E|b| for b ~ N(0, 0.02^2), the deviation at which the authors' first runs scored an untrained B (it came from the model's own
initialiser), so that |b * dL/db| has an expected value where B is still zero."""
UNTRAINED = Option(
    "expected",
    "how a site counts where B = 0: expected (score of a small random B) or literal (zero)",
    choices=("expected", "literal"),
)
AT_ZERO = "an untrained B counts as a random one of deviation 0.02; with untrained: literal the score is zero"


def saliency(adapter: Adapter, gradients: Mapping[str, torch.Tensor], untrained: str) -> float:
    """sum |p * dL/dp| over a site's tensors.

    With ``untrained="expected"`` a B that is still zero counts with the magnitude of a small random one; with ``"literal"`` it counts
    as zero, and so does the whole site, for the gradient of A is zero too.
    """
    score = 0.0
    for name, parameter, role in adapter.trained_tensors():
        if role == "B" and untrained == "expected" and not parameter.any():
            score += TYPICAL_B * float(gradients[name].abs().sum())
        else:
            score += float((parameter.detach() * gradients[name]).abs().sum())
    return score


def snip(adapted: AdaptedModel, gradients: Gradients, settings: Settings) -> Scores:
    """Site -> sum |p * dL/dp| of its tensors."""
    return {site: saliency(adapted.adapters[site], own, settings["untrained"]) for site, own in gradients.items()}


proxies.register(
    Proxy(
        name="snip",
        summary="sum |A * dL/dA| + sum |B * dL/dB|",
        source="Lee et al. 2019, section 4.1; HeteroLoRA",
        at_zero=AT_ZERO,
        score=from_gradients(snip),
        work=lambda cost_model: cost_model.scoring(),
        options={"untrained": UNTRAINED},
        reach=3.5,
        of_gradients=snip,
    ),
)
