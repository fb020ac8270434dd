"""SynFlow: SNIP's product on a network of absolute weights fed with ones (Tanaka et al. 2020, section 5; HeteroLoRA).

    every parameter -> its absolute value; every token's embedding -> ones; one real batch's mask and labels
    s = sum |A * dL/dA| + sum |B * dL/dB|

As in HeteroLoRA's code, L is the task's loss, where Tanaka et al. take the sum of the outputs. Signs come back bit for bit.
Zero while B = 0, as SNIP is, and handled the same way (`untrained`, in `search.proxy_options`). Also zero, up to rounding, on q and
k of models without position embeddings (Llama): with ones everywhere all tokens are alike, and attention has nothing to choose
between.
Cost: one forward and backward pass over the longest batch, and a byte a parameter for its sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lorakit.searching.proxies.snip import AT_ZERO, UNTRAINED, saliency
from lorakit.searching.proxy import Probe, Proxy, Scores, proxies

SIGNS = 460
"""Taking a parameter's sign off and putting it on again, in multiply-adds, as measured: all of it waits for memory."""


@contextmanager
def absolute_weights(model: nn.Module) -> Iterator[None]:
    """Every parameter replaced by its absolute value; the signs return, minus zero included."""
    negative = {parameter: torch.signbit(parameter) for parameter in model.parameters()}
    try:
        with torch.no_grad():
            for parameter in negative:
                parameter.abs_()
        yield
    finally:
        with torch.no_grad():
            for parameter, signs in negative.items():
                parameter.copy_(torch.where(signs, -parameter.abs(), parameter))


@contextmanager
def ones_for_embeddings(model: nn.Module) -> Iterator[None]:
    """The token embedding gives ones, whatever the tokens."""

    def ones(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(output)

    handle = model.get_input_embeddings().register_forward_hook(ones)  # type: ignore[operator]
    try:
        yield
    finally:
        handle.remove()


def synflow(probe: Probe) -> Scores:
    """Site -> sum |p * dL/dp| of its tensors in the absolute network."""
    model = probe.adapted.model
    with absolute_weights(model), ones_for_embeddings(model):
        table = probe.gradients(probe.batches[:1])
        adapters = probe.adapted.adapters
        return {
            site: saliency(adapters[site], gradients, probe.settings["untrained"]) for site, gradients in table.items()
        }


proxies.register(
    Proxy(
        name="synflow",
        summary="sum |A * dL/dA| + sum |B * dL/dB| with absolute weights and all-ones embeddings",
        source="Tanaka et al. 2020, section 5; HeteroLoRA",
        at_zero=AT_ZERO,
        score=synflow,
        work=lambda cost_model: cost_model.scoring(1) + SIGNS * cost_model.parameters,
        options={"untrained": UNTRAINED},
        reach=2.0,
        rewrites_weights=True,
    ),
)
