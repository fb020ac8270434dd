"""What a merged model keeps of its MLPs where a run has closed some of their channels: the weights cut, and the config that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.deltas.masked import Masked
from lorakit.adapters.switching import DROPPED
from lorakit.artifacts.later import Later, made
from lorakit.backbone.channels import Mlp, mlps, narrow


@dataclass(frozen=True)
class ChannelCut:
    """Which channels stay. kept: the MLP of each layer, and which of its channels are open (width,); the same number everywhere."""

    kept: list[tuple[Mlp, torch.Tensor]]

    @property
    def before(self) -> int:
        """Channels of an MLP."""
        return self.kept[0][0].width

    @property
    def after(self) -> int:
        """Those that stay."""
        return int(self.kept[0][1].sum())

    @property
    def parameters(self) -> int:
        """Parameters that go."""
        return (self.before - self.after) * sum(mlp.numbers for mlp, _ in self.kept)

    def cut(self, folded: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
        """``folded`` (``fold_later``) with every matrix and bias of an MLP cut, when it is asked for; the model's config says so now."""
        narrow(model.config, self.after)
        own, tensors = model.state_dict(), dict(folded)
        for mlp, kept in self.kept:
            for name, axis in mlp.cuts():
                whole = tensors.get(name, own[name])
                shape = [self.after if place == axis else size for place, size in enumerate(whole.shape)]
                like = torch.empty(shape, dtype=whole.dtype, device="meta")
                tensors[name] = Later.of(like, partial(selected, whole, axis, kept))
        return tensors


def selected(whole: torch.Tensor, axis: int, kept: torch.Tensor) -> torch.Tensor:
    """What ``kept`` says of ``whole`` along ``axis``."""
    tensor: torch.Tensor = made(whole)
    return tensor.index_select(axis, kept.nonzero().flatten().to(tensor.device))


def channel_cut(adapted: AdaptedModel) -> ChannelCut | None:
    """The channels that the adapters leave open; None where nothing is closed."""
    masks = {
        name: adapter.delta.kept.detach() != 0
        for name, adapter in adapted.adapters.items()
        if adapter.state != DROPPED and isinstance(adapter.delta, Masked) and adapter.delta.closed_outputs()
    }
    if not masks:
        return None
    found = mlps(adapted.backbone.anatomy, adapted.backbone.model.config)
    return ChannelCut([(mlp, masks[mlp.up.name]) for mlp in found])
