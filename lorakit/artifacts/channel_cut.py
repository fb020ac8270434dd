"""What a merged model keeps where a run has closed channels or heads: the weights cut, and the config that says so."""

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
from lorakit.backbone.channels import CHANNELS, HEADS, SILENCED, Part, config_with, parts_of


@dataclass(frozen=True)
class ChannelCut:
    """Which channels, or heads, stay.

    kind: which of the two; kept: those of each layer, and which of them are open (number,): as many everywhere.
    """

    kind: str
    kept: list[tuple[Part, torch.Tensor]]

    @property
    def before(self) -> int:
        """Channels of an MLP, or heads of keys and values."""
        return self.kept[0][0].number

    @property
    def after(self) -> int:
        """Those that stay."""
        return int(self.kept[0][1].sum())

    @property
    def parameters(self) -> int:
        """Parameters that go."""
        return (self.before - self.after) * sum(part.parameters for part, _ in self.kept)

    def cut(self, folded: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
        """``folded`` (``fold_later``) with every matrix and bias cut, when it is asked for; the model's config says so now."""
        for name, value in config_with(model.config, self.kind, self.after).items():
            setattr(model.config, name, value)
        own, tensors = model.state_dict(), dict(folded)
        for part, kept in self.kept:
            for name, axis, size in part.cuts():
                whole = tensors.get(name, own[name])
                places = kept.repeat_interleave(size).nonzero().flatten()
                shape = [len(places) if along == axis else length for along, length in enumerate(whole.shape)]
                like = torch.empty(shape, dtype=whole.dtype, device="meta")
                tensors[name] = Later.of(like, partial(selected, whole, axis, places))
        return tensors


def selected(whole: torch.Tensor, axis: int, places: torch.Tensor) -> torch.Tensor:
    """What of ``whole`` lies at ``places`` along ``axis``."""
    tensor: torch.Tensor = made(whole)
    return tensor.index_select(axis, places.to(tensor.device))


def opened(deltas: Mapping[str, Masked], part: Part) -> torch.Tensor:
    """Which of a layer's are open (number,)."""
    site, size = part.writes[0]
    return deltas[site.name].open_groups(size)


def channel_cuts(adapted: AdaptedModel) -> list[ChannelCut]:
    """The channels, and the heads, that the adapters leave open; neither where nothing of it is closed."""
    closing = {
        name: adapter.delta
        for name, adapter in adapted.adapters.items()
        if adapter.state != DROPPED and isinstance(adapter.delta, Masked) and adapter.delta.closed_outputs()
    }
    roles = {delta.site.role for delta in closing.values()}
    anatomy, config = adapted.backbone.anatomy, adapted.backbone.model.config
    return [
        ChannelCut(kind, [(part, opened(closing, part)) for part in parts_of(kind, anatomy, config)])
        for kind in (CHANNELS, HEADS)
        if SILENCED[kind] in roles
    ]
