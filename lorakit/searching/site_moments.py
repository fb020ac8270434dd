"""What goes through the sites in ordinary training steps: mean squares of inputs and of outputs' gradients.

    input_j    mean of x_j^2 over the tokens that the site sees (padding left out)
    output_i   sum of g_i^2 over all tokens of the steps looked at           g: the gradient of the loss by the site's output

For an update dW of a layer that all tokens share, E |<dL/dW, dW>|^2 is about u'Gu v'Cv times its size for dW = u v^T, with the covariances
G of output gradients and C of inputs, if tokens' gradients are uncorrelated and independent of the inputs (Martens & Grosse 2015,
sections 3 and 4, for Fisher blocks); of both only the diagonal is kept: in + out numbers a site.

Only the last ``search.batches`` steps before a tick are looked at, and only then do hooks hang on the modules. A site's input counts
once its output's gradient comes, so that layers that are computed twice (gradient checkpointing) count once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.backbone.pair_texts import takes_mask
from lorakit.searching.input_statistics import modules_of
from lorakit.searching.over_processes import over_processes
from lorakit.searching.streaming import steps_before

Tensor = torch.Tensor


class Seen(NamedTuple):
    """Of one site: the mean square of each input (in,), and the sum of squares of each output's gradient (out,)."""

    inputs: Tensor
    gradients: Tensor


class SiteMoments:
    """Sums over the ``window`` optimiser steps before each of ``ticks``, the same on all processes."""

    def __init__(self, adapted: AdaptedModel, ticks: Sequence[int], window: int):
        self.adapted = adapted
        self.steps = steps_before(ticks, window)
        self.widths = {name: (a.site.in_features, a.site.out_features) for name, a in adapted.adapters.items()}
        self.sums: dict[str, Tensor] = {}
        """Site -> tokens, then sums of squares of inputs, then of gradients (1 + in + out,)."""
        self.step_sums: dict[str, Tensor] = {}
        self.mask: Tensor | None = None
        self.hooks = ExitStack()

    def before_forward(self, step: int) -> None:
        """Listen, where this step is looked at."""
        if step not in self.steps:
            return
        masked = takes_mask(self.adapted.model)
        self.hooks.callback(masked.register_forward_pre_hook(self.note_mask, with_kwargs=True).remove)
        for name, module in modules_of(self.adapted).items():
            self.hooks.callback(module.register_forward_hook(self.listener(name)).remove)

    def note_mask(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Which tokens of the batch are no padding."""
        mask = named.get("attention_mask")
        self.mask = None if mask is None else mask.bool()

    def listener(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """What listens to the site ``name``."""

        def listen(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            x = arguments[0].detach()
            tokens = x.flatten(0, -2).float()
            if self.mask is not None and x.shape[:-1] in (self.mask.shape, self.mask.flatten().shape):
                tokens = tokens[self.mask.flatten().to(x.device)]
            squares = tokens.square().sum(dim=0)
            output.register_hook(lambda gradient: self.add(name, len(tokens), squares, gradient))

        return listen

    def add(self, name: str, tokens: int, squares: Tensor, gradient: Tensor) -> None:
        """Count one pass through the site ``name``; none that counts nothing in the loss, and so has no gradient."""
        if not gradient.any():
            return
        of_gradient = gradient.detach().float().square().flatten(0, -2).sum(dim=0)
        found = torch.cat([squares.new_tensor([tokens]), squares, of_gradient])
        self.step_sums[name] = self.step_sums[name] + found if name in self.step_sums else found

    def after_backward(self, step: int) -> None:
        """Stop listening; add what this step brought, of all processes. A step that overflowed float16 counts as nothing."""
        if step not in self.steps:
            return
        self.hooks.close()
        device = next(self.adapted.model.parameters()).device
        parts = [
            self.step_sums.get(name, torch.zeros(1 + sum(widths), device=device)).to(device)
            for name, widths in self.widths.items()
        ]
        total = over_processes(torch.cat(parts))
        self.step_sums = {}
        if total.isfinite().all():
            split = total.split([1 + sum(widths) for widths in self.widths.values()])
            for name, found in zip(self.widths, split, strict=True):
                self.sums[name] = self.sums[name] + found if name in self.sums else found.clone()

    def take(self) -> dict[str, Seen]:
        """Site -> its moments, in float64 on the CPU, zeros where nothing came; and begin anew."""
        found = {}
        for name, (width, out) in self.widths.items():
            total = self.sums.get(name, torch.zeros(1 + width + out)).double().cpu()
            found[name] = Seen(total[1 : 1 + width] / total[0].clamp_min(1), total[1 + width :])
        self.sums = {}
        return found

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return pack_all(self.sums)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.sums = unpack_all(state, next(self.adapted.model.parameters()).device)
