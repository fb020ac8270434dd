"""What an initialisation is given, and what it must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import nn

from lorakit.adapters.delta import Delta
from lorakit.registry import Registry


@dataclass(frozen=True)
class InitContext:
    """What an initialisation may use.

    weight: the site's frozen W (out x in), None on a shortcut; scale: the s of W + s dW; generator: the site's own stream;
    covariance and mean: those of x x^T (in x in) and of x (in,) over calibration tokens, gradient: dL/dW of the loss averaged over
    calibration rows (out x in), each only for an init that ``needs`` it (covariance: both of the first two).
    """

    weight: torch.Tensor | None
    scale: float
    generator: torch.Generator
    covariance: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    gradient: torch.Tensor | None = None


class Drawable(Protocol):
    """What has tensors to draw: a delta, or the tensors that deltas share."""

    def drawn(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of the tensors that have no start of their own."""


@dataclass(frozen=True)
class Init:
    """An initialisation.

    fill: fills the tensors that have no start of their own, in place; anchors: it starts the update away from zero, so the start is kept
    and subtracted, W' = W + s (dW - dW at start), and the frozen weight stays the pretrained one; factors: it gives factors A and B,
    which the delta must be able to take; zero: the role of the one that it gives as zero, which must train; needs: what of the model
    or of training data it looks at; name, title, summary and source are for people.
    """

    name: str
    title: str
    summary: str
    source: str
    fill: Callable[[Delta, InitContext], None]
    factors: bool = False
    zero: str = ""
    anchors: bool = False
    needs: Literal["nothing", "weight", "covariance", "gradient"] = "nothing"

    def __call__(self, tensors: Drawable, context: InitContext) -> None:
        """Fill ``tensors``: a delta's, or those that deltas share, which only an init that just draws is given (see ``conflicts``)."""
        self.fill(cast(Delta, tensors), context)


inits: Registry[Init] = Registry("init", "lorakit.adapters.inits")
