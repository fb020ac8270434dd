"""What a parametrisation of a site's update must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from lorakit.backbone.site import Site
from lorakit.registry import Registry

Tensor = torch.Tensor
Options = Mapping[str, Any]
Draw = Callable[[Tensor, torch.Generator], None]
NO_OPTIONS: Options = MappingProxyType({})
START = "start"
"""The role of tensors that keep a parametrisation's start: they never train, whatever `trainable` says."""


@dataclass(frozen=True)
class Option:
    """What is set for one parametrisation alone (recipe: adapter.options). Its type is that of ``default``.

    low and high: bounds that are themselves accepted; above and below: bounds that are not; choices: the accepted words.
    """

    default: int | float | str
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()


class Layer(Protocol):
    """The adapted module, as a parametrisation that is more than a sum sees it."""

    def frozen_forward(self, x: Tensor) -> Tensor:
        """``W x + b``."""

    def base_weight(self) -> Tensor:
        """W (out x in)."""

    def base_bias(self) -> Tensor | None:
        """b (out,)."""

    def dropout(self, x: Tensor) -> Tensor:
        """The adapter's dropout."""


class Shared(nn.Module):
    """Tensors that several sites have in common; one of these for each group of sites."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], delta: type[Delta]):
        super().__init__()
        self.of = delta
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor."""
        for name, parameter in self.named_parameters():
            yield name, parameter, self.of.shared_roles[name]

    def drawn(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """Those that the initialisation draws."""
        return (entry for entry in self.tensors() if entry[0] not in self.of.starts)

    def begin(self, generator: torch.Generator) -> None:
        """Put every tensor that has a start of its own there."""
        begin(self.tensors(), self.of.starts, generator)


class Delta(nn.Module, ABC):
    """The update of one site's weight W (out x in): ``W' = W + s dW`` where it is additive.

    A subclass says what tensors it has before any is made (``shapes``), which role each plays (``roles``), how each starts
    (``starts``) and along which axis of each one the rank runs (``rank_axes``): counting, freezing, learning-rate groups,
    pruning and saving are written once from these.

    name: what recipes call it; roles: tensor -> role (A, B, gate, core, vector, ...); rank_axes: tensor -> axis, or
    axes; narrows: whether its first k rank units are the same parametrisation of rank k; rates: role -> how many times
    faster than the others it learns; starts: tensor -> the constant it starts at, or a function that draws it; what is
    not named there the recipe's init draws; options: its own, whose values an instance has as ``settings``; free_rank:
    whether any rank will do, or there is none, where else the narrower width is the limit; shared_roles: the tensors
    that sites have in common -> role; peft_names: what PEFT calls the tensors on disk, empty where PEFT has no such
    parametrisation; kinds: the kinds of site it can sit on; additive: whether the layer is ``W x + b + s dW x``, else
    ``layer`` computes it; takes_factors: whether ``set_factors`` can make it any product B A; unmergeable: why it
    cannot be folded into a weight, empty where it can; replaces: whether its tensors stand in for the module's own
    parameters.
    """

    name: ClassVar[str]
    roles: ClassVar[Mapping[str, str]]
    rank_axes: ClassVar[Mapping[str, int | tuple[int, ...]]] = {}
    narrows: ClassVar[bool] = False
    rank: int
    rates: ClassVar[Mapping[str, float]] = {}
    starts: ClassVar[Mapping[str, float | Draw]]
    options: ClassVar[Mapping[str, Option]] = {}
    free_rank: ClassVar[bool] = False
    shared_roles: ClassVar[Mapping[str, str]] = {}
    peft_names: ClassVar[Mapping[str, str]] = {}
    kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "shortcut")
    additive: ClassVar[bool] = True
    takes_factors: ClassVar[bool] = False
    unmergeable: ClassVar[str] = ""
    replaces: ClassVar[bool] = False
    shared: Shared | None

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__()
        self.site = site
        self.rank = rank
        self.width: int | None = None  # only the first so many rank units are in the function; None: all
        self.settings = self.settings_of(options)
        self.__dict__["shared"] = shared  # not a child: it belongs to the model
        for name, shape in self.shapes(site, rank, self.settings).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def __getattr__(self, name: str) -> Any:
        """A tensor as the function sees it: its first ``width`` rank units where there are fewer than ``rank``."""
        value: Any = super().__getattr__(name)
        width = self.__dict__.get("width")
        if width is None or name not in type(self).roles:
            return value
        if self.narrows:
            for axis in axes_of(self, name):
                value = value.narrow(axis, 0, width)
            return value
        if name in self.closers():
            inside = torch.arange(self.rank, device=value.device) < width
            for axis in axes_of(self, name):
                value = value * along(inside, axis, value.ndim)
        return value

    # -- what is known before anything is built -----------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, for counting before anything is allocated."""

    @classmethod
    def settings_of(cls, options: Options) -> dict[str, Any]:
        """The value of every option: as ``options`` say, its default where they do not."""
        return {name: options.get(name, option.default) for name, option in cls.options.items()}

    @classmethod
    def draws(cls) -> bool:
        """Whether it has tensors that an init draws."""
        return any(name not in cls.starts for name in (*cls.roles, *cls.shared_roles))

    @classmethod
    def role_of(cls, name: str) -> str:
        """The role of its own tensor ``name``."""
        return cls.roles[name]

    @classmethod
    def closers(cls) -> tuple[str, ...]:
        """The tensors in which zeros in a rank unit's place take it out of the function; none where units cannot be taken out."""
        ranked = [name for name in cls.rank_axes if name in cls.roles]
        zero = [name for name in ranked if cls.starts.get(name) == 0.0]
        return tuple(zero or [name for name in ranked if cls.roles[name] == "vector"])

    @classmethod
    def group(cls, site: Site) -> str:
        """Sites of one group share their ``shared`` tensors."""
        return "all"

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that ``sites``, one group, have in common; ``rank`` is the highest among them."""
        return {}

    @classmethod
    def highest_rank(cls, site: Site) -> int | None:
        """The largest rank that makes sense on ``site``; None where there is no limit."""
        return None if cls.free_rank else min(site.in_features, site.out_features)

    @classmethod
    def check(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """Why it cannot sit on ``site``, empty where it can: widths that do not divide, a bias that is missing."""
        return ""

    @classmethod
    def stuck(cls, trains: Callable[[str], bool]) -> str:
        """A tensor that keeps the update at zero for ever because it starts at zero and does not train; empty where none does.

        In a product one such tensor is enough; a parametrisation that is a sum overrides this.
        """
        roles = {**cls.roles, **cls.shared_roles}
        return next((name for name, role in roles.items() if cls.starts.get(name) == 0.0 and not trains(role)), "")

    # -- the start ----------------------------------------------------------------------------------------------------

    def begin(self, generator: torch.Generator) -> None:
        """Put every tensor that has a start of its own there."""
        begin(self.tensors(), self.starts, generator)

    def prepare(self, weight: Tensor | None) -> None:
        """Derive from the frozen W (out x in; None on a shortcut) what is kept beside the tensors: called once, before the init."""

    def drawn(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """The tensors that the recipe's init draws."""
        return (entry for entry in self.tensors() if entry[0] not in self.starts)

    def set_factors(self, b: Tensor, a: Tensor) -> None:
        """Make dW = b a, for b (out x rank) and a (rank x in); only where ``takes_factors``."""
        raise TypeError(f"{type(self).__name__} takes no factors")

    @torch.no_grad()
    def close(self, units: Tensor) -> None:
        """Take the rank units where ``units`` (rank,) is true out of the function: zeros in their place in the ``closers``."""
        for name, tensor, _ in self.tensors():
            if name in self.closers():
                for axis in axes_of(self, name):
                    tensor.index_fill_(axis, units.nonzero().flatten().to(tensor.device), 0.0)

    def neutral(self) -> bool:
        """Whether the update is zero: in a product, because some tensor is still at its zero start."""
        shared = self.shared.tensors() if self.shared is not None else ()
        return any(self.starts.get(name) == 0.0 and not t.any() for name, t, _ in [*self.tensors(), *shared])

    def asleep(self) -> set[str]:
        """The tensors whose gradient is zero because the update is: whatever they are multiplied by starts at zero, and is zero."""
        zero = {name for name, tensor, _ in self.tensors() if self.starts.get(name) == 0.0 and not tensor.any()}
        return {name for name, _, _ in self.tensors()} - zero if zero and self.neutral() else set()

    # -- the function -------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """``scale * dW x`` for x (..., in) -> (..., out), in factored form."""
        raise TypeError(f"{type(self).__name__} is no sum: its layer is computed by `layer`")

    def added(self, base: Tensor, x: Tensor, scale: float) -> Tensor:
        """``base + scale * dW x`` for what the frozen layer gave (..., out), which may be overwritten."""
        return base + self(x, scale)

    def layer(self, layer: Layer, x: Tensor, scale: float) -> Tensor:
        """The whole adapted layer's output, for a parametrisation that is not ``additive``."""
        raise TypeError(f"{type(self).__name__} is a sum: it is computed by `forward`")

    def dense(self) -> Tensor:
        """dW, dense, (out x in): for merging and analysis, never in the hot path."""
        raise TypeError(f"{type(self).__name__} has no dense update")

    def effective_weight(self, weight: Tensor, scale: float) -> Tensor:
        """W' for the given W (out x in). Additive by default; a multiplicative parametrisation overrides it."""
        return weight + scale * self.dense().to(weight.dtype)

    def effective_bias(self, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor | None:
        """b' (out,) for the given W and b, both as they were before any merging."""
        return bias

    def row_norms_squared(self, weight: Tensor, base_squared: Tensor, scale: float) -> Tensor:
        """Squared row norms of W' (out,), given those of W; override where the dense product can be avoided."""
        return self.effective_weight(weight, scale).square().sum(dim=1)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """(b, a) with dW = b a exactly, as thin as the parametrisation allows; None where dW is not of low rank."""
        return None

    # -- the tensors --------------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        """(name, parameter, role) of every tensor of its own."""
        for name, parameter in self.named_parameters():
            yield name, parameter, self.role_of(name)


deltas: Registry[type[Delta]] = Registry("delta", "lorakit.adapters.deltas")


class Ranked(Protocol):
    """What says along which axes its tensors' rank units lie."""

    @property
    def rank_axes(self) -> Mapping[str, int | tuple[int, ...]]:
        """Tensor -> axis, or axes."""


def axes_of(delta: Ranked, name: str) -> tuple[int, ...]:
    """The axes of the tensor ``name`` along which its rank units lie; none where it has no ranks."""
    axes = delta.rank_axes.get(name, ())
    return (axes,) if isinstance(axes, int) else tuple(axes)


def along(vector: Tensor, axis: int, ndim: int) -> Tensor:
    """``vector`` as a tensor of ``ndim`` axes that runs along one of them, to be broadcast."""
    return vector.view([-1 if place == axis else 1 for place in range(ndim)])


@torch.no_grad()
def begin(
    tensors: Iterator[tuple[str, nn.Parameter, str]], starts: Mapping[str, float | Draw], generator: torch.Generator
) -> None:
    """Put the tensors that ``starts`` names at their constants, or draw them."""
    for name, tensor, _ in tensors:
        start = starts.get(name)
        if callable(start):
            start(tensor, generator)
        elif start is not None:
            tensor.fill_(start)
