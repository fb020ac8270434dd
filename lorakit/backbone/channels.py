"""The channels of a model's MLPs, and a model with fewer of them.

    h = act(U x + b) or act(G x) o (U x)        MLP(x) = D h + c        U, G: width x hidden (roles up, gate), D: hidden x width (down)

A channel is a row of U, and of G, with its column of D. Where the row of U and its bias give 0, so does the channel (of an MLP without a
gate because act(0) = 0), and leaving it out leaves the function as it is. The config has one width for all layers: each gives up as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.activations import ACT2FN

from lorakit.backbone.anatomy import Anatomy, family_of
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError


@dataclass(frozen=True)
class Mlp:
    """A layer's MLP. up, down: its projections; gate: that of a gated one."""

    layer: int
    up: Site
    down: Site
    gate: Site | None

    @property
    def width(self) -> int:
        """Its channels."""
        return self.up.out_features

    @property
    def sites(self) -> list[Site]:
        """All of its projections."""
        return [self.up, *([self.gate] if self.gate else []), self.down]

    @property
    def numbers(self) -> int:
        """Parameters of a channel: its rows, their biases, its column."""
        return sum(site.in_features + site.bias for site in self.sites[:-1]) + self.down.out_features

    def cuts(self) -> Iterator[tuple[str, int]]:
        """(name, axis) of each parameter that has channels, and where."""
        for site in self.sites:
            reads = site is self.down
            yield f"{site.name}.weight", int(reads != (site.kind == "conv1d"))
            if site.bias and not reads:
                yield f"{site.name}.bias", 0


def mlps(anatomy: Anatomy, config: Any) -> list[Mlp]:
    """The MLP of every layer. Raises RecipeError (key ``model.name``) for a model that cannot have fewer channels, with the reason."""
    record = family_of(str(config.model_type))
    if record is None:
        raise refusal(anatomy, "its family is not known, nor where its config has the MLPs' width")
    found = []
    for layer in range(len(anatomy.layers)):
        of_role = {site.role: site for site in anatomy.sites if site.layer == layer}
        if "up" not in of_role or "down" not in of_role:
            raise refusal(anatomy, f"layer {layer} has no MLP of projections up and down")
        found.append(Mlp(layer, of_role["up"], of_role["down"], of_role.get("gate")))
    if len({mlp.width for mlp in found}) > 1:
        raise refusal(anatomy, "its MLPs are of several widths")
    activation = getattr(config, record.activation, None)
    if any(mlp.gate is None for mlp in found) and not at_zero_is_zero(activation):
        raise refusal(anatomy, f"its activation {activation} is not 0 at 0: a closed channel would still count")
    return found


def at_zero_is_zero(activation: Any) -> bool:
    """Whether the activation of this name gives 0 for 0; of an unknown one nothing is said."""
    known = isinstance(activation, str) and activation in ACT2FN
    return known and float(ACT2FN[activation](torch.zeros(1))) == 0


def refusal(anatomy: Anatomy, reason: str) -> RecipeError:
    """Why this model's MLPs stay as they are."""
    return RecipeError(
        f"the channels of this {anatomy.family} model's MLPs cannot be pruned: {reason}", key="model.name"
    )


def narrow(config: Any, width: int) -> None:
    """Make the config that of a model whose MLPs have ``width`` channels."""
    record = family_of(str(config.model_type))
    assert record is not None
    setattr(config, record.mlp_width, width)
