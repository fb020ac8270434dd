"""What an initialisation is given, what it must do, and how a delta comes to its start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch
from torch import nn

from lorakit.adapters.anchored import Anchored
from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.shared import Shared
from lorakit.adapters.spectrum import leading
from lorakit.recipe.schema import AdapterSection
from lorakit.registry import Registry

if TYPE_CHECKING:
    from lorakit.adapters.spec import AdapterSpec
    from lorakit.backbone.site import Site


@dataclass(frozen=True)
class InitContext:
    """What an initialisation may use."""

    weight: torch.Tensor | None
    """The site's frozen W (out x in), None on a shortcut."""
    scale: float
    """The s of W + s dW."""
    generator: torch.Generator
    """The site's own random stream."""
    covariance: torch.Tensor | None = None
    """(in x in) That of x x^T over calibration tokens, for an init that ``needs`` it."""
    mean: torch.Tensor | None = None
    """(in,) That of x over calibration tokens, where there is a covariance."""
    gradient: torch.Tensor | None = None
    """(out x in) dL/dW of the loss averaged over calibration rows, for an init that ``needs`` it."""
    fisher: torch.Tensor | None = None
    """(out x in) Mean of (dL/dW)^2 over calibration rows, for an init that ``needs`` it."""
    quantise: Callable[[torch.Tensor], torch.Tensor] | None = None
    """(out x in) -> the same rounded, which the site has as its frozen weight from then on, for an init that ``quantises``."""
    steps: int = AdapterSection.init_steps
    """How often such an init alternates."""
    exact: bool = False
    """Whether large matrices too are decomposed exactly."""

    def leading(self, matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Its first ``count`` singular triplets, U (out x k), S (k,), V^T (k x in)."""
        return leading(matrix, count, self.generator, exact=self.exact)


class Initialisable(Protocol):
    """What has tensors for an init to fill: a delta, or the tensors that deltas share."""

    def init_tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of the tensors that have no start of their own."""


@dataclass(frozen=True)
class Init:
    """An initialisation."""

    name: str
    """What recipes call it."""
    title: str
    """Its full name."""
    summary: str
    """Its formula in one line."""
    source: str
    """Paper and section."""
    fill: Callable[[Delta, InitContext], None]
    """Fills the tensors that have no start of their own, in place."""
    factors: bool = False
    """Whether it gives factors A and B, which the delta must be able to take."""
    zero: str = ""
    """The role of the factor that it gives as zero, which must train; empty where it gives none."""
    anchors: bool = False
    """Whether it starts the update away from zero. The start then is kept and subtracted (``anchored``)."""
    needs: Literal["nothing", "weight", "covariance", "gradient", "fisher"] = "nothing"
    """What of the model or of training data it looks at."""
    leading: bool = False
    """Whether it takes the first singular triplets alone, so that large matrices need no exact decomposition."""
    quantises: bool = False
    """Whether it decides itself what the site's weight is rounded to. The run then keeps that, and its start is not W's function."""

    @property
    def looks_at_data(self) -> bool:
        """Whether it looks at training rows."""
        return self.needs not in ("nothing", "weight")

    def __call__(self, tensors: Initialisable, context: InitContext) -> None:
        """Fill ``tensors``: a delta's, or those that deltas share, which only an init that just draws is given (see ``conflicts``)."""
        self.fill(cast(Delta, tensors), context)


inits: Registry[Init] = Registry("init", "lorakit.adapters.inits")


def fresh_delta(
    site: Site,
    spec: AdapterSpec,
    rank: int,
    weight: torch.Tensor | None,
    generator: torch.Generator,
    shared: Shared | None,
    statistics: Mapping[str, torch.Tensor] | None,
    quantise: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    exact: bool = False,
) -> Delta | Anchored:
    """The delta of one site at its start: first the tensors with a start of their own, then those that the recipe's init fills.

    weight: W (out x in), None on a shortcut; quantise: as ``InitContext`` has it; the others as ``Adapter`` has them.
    """
    delta = deltas.get(spec.delta)(site, rank, dict(spec.options), shared)
    init = inits.get(spec.init)
    wide = None if weight is None else weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    delta.put_at_start(generator)
    delta.prepare(wide)
    if statistics is not None:
        scale, steps = spec.scale_at(rank), spec.init_steps
        init(delta, InitContext(wide, scale, generator, quantise=quantise, steps=steps, exact=exact, **statistics))
    return Anchored(delta) if init.anchors else delta
