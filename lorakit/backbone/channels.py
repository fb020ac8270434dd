"""What of a model's layers can go whole, and a model with less of it: channels of MLPs, heads of attention.

    channel   h = act(U x + b) or act(G x) o (U x), MLP(x) = D h + c        a row of U (role up), one of G (gate), a column of D (down)
    head      of keys and values, with the heads of queries that look at it: its rows of v, k and q, its columns of o

Where the rows of U, or of v, and their biases give 0, so does the whole of it (of an MLP without a gate because act(0) = 0), and leaving
it out leaves the function as it is. The config has one number for all layers: each gives up as many. Heads can go only where the
config has their width too, `head_dim`; elsewhere that is what the hidden width is divided into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN

from lorakit.backbone.anatomy import Anatomy, family_of
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError

CHANNELS, HEADS = "channels", "heads"
SILENCED = {CHANNELS: "up", HEADS: "v"}
"""Kind -> the role of the projection whose outputs of 0 leave one of them out."""


@dataclass(frozen=True)
class Part:
    """All channels of a layer's MLP, or all heads of its keys and values.

    kind: channels or heads; layer: its number; writes: the projections that have rows of each, and how many, the ``SILENCED`` one first;
    reads: the one that has columns of each, and how many.
    """

    kind: str
    layer: int
    writes: tuple[tuple[Site, int], ...]
    reads: tuple[Site, int]

    @property
    def number(self) -> int:
        """How many channels, or heads."""
        site, size = self.writes[0]
        return site.out_features // size

    @property
    def sites(self) -> list[Site]:
        """All of its projections."""
        return [*(site for site, _ in self.writes), self.reads[0]]

    @property
    def parameters(self) -> int:
        """Of one of them: its rows, their biases, its columns."""
        rows = sum(size * (site.in_features + site.bias) for site, size in self.writes)
        return rows + self.reads[1] * self.reads[0].out_features

    def cuts(self) -> Iterator[tuple[str, int, int]]:
        """(name, axis, size) of each parameter that has them, along which axis, and how many entries each takes there."""
        for site, size in self.writes:
            yield f"{site.name}.weight", int(site.kind == "conv1d"), size
            if site.bias:
                yield f"{site.name}.bias", 0, size
        site, size = self.reads
        yield f"{site.name}.weight", int(site.kind != "conv1d"), size


def parts_of(kind: str, anatomy: Anatomy, config: Any) -> list[Part]:
    """The channels, or heads, of every layer. Raises RecipeError (key ``model.name``) with the reason where a model cannot have fewer."""
    record = family_of(str(config.model_type))
    if record is None:
        raise refusal(kind, anatomy, "its family is not known, nor what its config calls their number")
    if kind == HEADS and not record.head_width:
        raise refusal(kind, anatomy, "its config has no width of a head that would stay")
    found = []
    for layer in range(len(anatomy.layers)):
        of_role = {site.role: site for site in anatomy.sites if site.layer == layer}
        part = channels_of(layer, of_role) if kind == CHANNELS else heads_of(layer, of_role, config)
        if part is None:
            raise refusal(kind, anatomy, f"layer {layer} has other projections than those known")
        found.append(part)
    if len({part.number for part in found}) > 1:
        raise refusal(kind, anatomy, "its layers have different numbers of them")
    activation = getattr(config, record.activation, None)
    if kind == CHANNELS and any(len(part.writes) == 1 for part in found) and not at_zero_is_zero(activation):
        raise refusal(
            kind, anatomy, f"its activation {activation} is not 0 at 0, so a closed channel would still count"
        )
    return found


def channels_of(layer: int, of_role: dict[str, Site]) -> Part | None:
    """Those of an MLP; None where it has no such projections."""
    if not {"up", "down"} <= of_role.keys():
        return None
    writes = tuple((of_role[role], 1) for role in ("up", "gate") if role in of_role)
    return Part(CHANNELS, layer, writes, (of_role["down"], 1))


def heads_of(layer: int, of_role: dict[str, Site], config: Any) -> Part | None:
    """Those of keys and values; None where the layer has no such projections."""
    if not {"q", "k", "v", "o"} <= of_role.keys():
        return None
    width = of_role["v"].out_features // config.num_key_value_heads
    looking = width * (config.num_attention_heads // config.num_key_value_heads)
    writes = ((of_role["v"], width), (of_role["k"], width), (of_role["q"], looking))
    return Part(HEADS, layer, writes, (of_role["o"], looking))


def at_zero_is_zero(activation: Any) -> bool:
    """Whether the activation of this name gives 0 for 0; of an unknown one nothing is said."""
    known = isinstance(activation, str) and activation in ACT2FN
    return known and float(ACT2FN[activation](torch.zeros(1))) == 0


def refusal(kind: str, anatomy: Anatomy, reason: str) -> RecipeError:
    """Why this model keeps what it has."""
    return RecipeError(f"the {kind} of this {anatomy.family} model cannot be pruned: {reason}", key="model.name")


def config_with(config: Any, kind: str, number: int) -> dict[str, int]:
    """What changes in the config of a model with ``number`` of them in every layer. RecipeError where transformers takes no such config."""
    record = family_of(str(config.model_type))
    assert record is not None
    if kind == CHANNELS:
        changed = {record.mlp_width: number}
    else:
        looking = config.num_attention_heads // config.num_key_value_heads
        width = getattr(config, record.head_width, None) or config.hidden_size // config.num_attention_heads
        changed = {record.head_width: width, "num_key_value_heads": number, "num_attention_heads": number * looking}
    try:
        type(config).from_dict(config.to_dict() | changed)
    except (ValueError, StrictDataclassError) as error:
        why = str(error.__cause__ or error)
        raise RecipeError(
            f"transformers takes no {config.model_type} model of {number} {kind}: {why}", key="adapter.update_options"
        ) from error
    return changed
