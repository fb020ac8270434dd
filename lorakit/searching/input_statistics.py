"""What sites see: their inputs while the model computes a batch, padding left out, and means over those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.backbone.pair_texts import takes_mask
from lorakit.backbone.site import Site
from lorakit.searching.proxy import Logits
from lorakit.tasks.batching import Batch

See = Callable[[str, torch.Tensor], None]
"""(site, its inputs x (tokens x width) in float32)."""


def modules_of(adapted: AdaptedModel) -> dict[str, nn.Module]:
    """Site -> the module whose first argument is the site's input; a shortcut's is its adapter, called where it is in the function."""
    return {name: adapter if adapter.base is None else adapter.base for name, adapter in adapted.adapters.items()}


@contextmanager
def seen_inputs(model: nn.Module, modules: Mapping[str, nn.Module], see: See) -> Iterator[None]:
    """Within it, ``see`` is told what each module takes in while ``model`` computes a batch.

    Inputs that are not one for each token (embeddings of relative positions, for instance) are told whole, and all are where the model
    is given no attention_mask.
    """
    real = torch.empty(0)  # (rows, tokens): which are no padding

    def note_mask(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal real
        mask = named.get("attention_mask")
        real = torch.empty(0) if mask is None else mask.bool()

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def tell(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            x = arguments[0].detach().float()
            for_tokens = x.shape[:-1] in (real.shape, real.flatten().shape)
            see(name, x.flatten(0, -2)[real.flatten().to(x.device) if for_tokens else slice(None)])

        return tell

    with ExitStack() as hooks:
        hooks.callback(takes_mask(model).register_forward_pre_hook(note_mask, with_kwargs=True).remove)
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(watch(name)).remove)
        yield


class Inputs:
    """Sums over the inputs x that one site has seen."""

    def __init__(self, width: int, device: torch.device):
        self.count = 0
        self.total = torch.zeros(width, device=device)
        self.products = torch.zeros(width, width, device=device)

    def add(self, x: torch.Tensor) -> None:
        """Count x (rows x width) in."""
        self.count += len(x)
        self.total += x.sum(dim=0)
        self.products += x.T @ x

    def means(self) -> dict[str, torch.Tensor]:
        """Means of x x^T and of x; zeros where nothing has been seen."""
        return {"covariance": self.products / max(self.count, 1), "mean": self.total / max(self.count, 1)}


@torch.no_grad()
def input_means(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], logits: Logits
) -> dict[str, dict[str, torch.Tensor]]:
    """Means of x x^T and of x over the inputs of ``sites``, which are modules' own."""
    device = next(model.parameters()).device
    seen = {site.name: Inputs(site.in_features, device) for site in sites}
    modules = {name: model.get_submodule(name) for name in seen}
    for batch in batches:
        with seen_inputs(model, modules, lambda name, x: seen[name].add(x)):
            logits(model, batch)
    return {name: inputs.means() for name, inputs in seen.items()}
