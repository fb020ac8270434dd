"""Linear modules whose frozen weight is kept in 8 or 4 bits, int8 and nf4 as bitsandbytes quantises it.

    int8    W ~ diag(s) Q / 127         s (out,): the largest absolute value of each row; Q: int8 (Dettmers et al. 2022, section 2)
    nf4     W ~ s_block code[Q]         s: that of every 64 numbers; Q: 4 bits, places in a table of 16 (Dettmers et al. 2023, section 3)
    int4    W ~ scale_group Q + zero_group, of every 32 numbers of a row; Q: 4 bits (``int4``)
    mixed   the same in 2, 3, 4 or 8 bits, scales and zero points in 8 (``few_bits``); which, is chosen for every matrix (``precisions``)

With double quantisation the s of nf4 are kept in 8 bits themselves, 256 of them at a time. The weight is made dense for one product,
and once more on the way back, so that the gradient of x is exactly that through the dense W: a step keeps no dense weight. Whoever
reads ``weight`` gets it dense, for as long as it is held. The bias is not quantised.

A weight is quantised where it lies, and its module keeps its identity: it changes its class, as in torch's parametrizations.
bitsandbytes' own modules are not used: on some CPUs they repack weights in evaluation, after which nothing below them gets a gradient,
and their int8 rounds activations too.
"""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lorakit.backbone import few_bits
from lorakit.backbone.few_bits import Precision
from lorakit.backbone.int4 import dense_groups, round_groups
from lorakit.backbone.precisions import PRECISIONS, assign, possible_bits
from lorakit.errors import RecipeError

if TYPE_CHECKING:
    from lorakit.backbone.anatomy import Anatomy

Tensor = torch.Tensor

KEY = "model.quantization"
NONE = "none"
BLOCK = 64
"""Numbers that have a scale in common, with nf4."""
GROUP = 32
"""Inputs that have a scale and a zero point in common, with int4."""
MIXED = "mixed"
BITS_KEY = "model.quantization_bits"
BITS = 2.75
"""A number, scales and zero points counted, that mixed matrices take at most: the paper's budget."""


class QuantisedLinear(nn.Linear, ABC):
    """``W x + b`` for x (..., in), with W kept quantised in buffers."""

    dtype: torch.dtype
    """W's, before it was quantised and whenever it is dense."""
    compute_dtype: torch.dtype | None
    """What products are computed in; None: in x's dtype, or autocast's where it is on."""
    leaf: Tensor | None
    """The dense weight, while somebody wants its gradient (``weight_leaves``)."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W (out x in), made dense now."""
        return self.dense(self.dtype) if self.leaf is None else self.leaf

    @abstractmethod
    def quantise(self, weight: Tensor, how: Quantisation) -> None:
        """Keep ``weight`` (out x in) quantised."""

    @abstractmethod
    def dense(self, dtype: torch.dtype) -> Tensor:
        """W (out x in)."""

    def product(self, x: Tensor) -> Tensor:
        """``W x``, computed in x's dtype."""
        out: Tensor = DenseForNow.apply(x, self)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """``W x + b``, in x's dtype, or in autocast's where it is on."""
        if self.leaf is not None:
            return F.linear(x, self.leaf, self.bias)
        device = x.device.type
        wanted = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            out = self.product(x.to(self.compute_dtype or wanted)).to(wanted)
            return out if self.bias is None else out + self.bias.to(wanted)


class Int8Linear(QuantisedLinear):
    """W in 8 bits, with a scale a row."""

    codes: Tensor
    absmax: Tensor

    def quantise(self, weight: Tensor, how: Quantisation) -> None:
        """Round each row to 255 steps."""
        from bitsandbytes.functional import int8_vectorwise_quant

        codes, absmax, _ = int8_vectorwise_quant(weight.float())
        self.register_buffer("codes", torch.where(absmax[:, None] == 0, 0, codes))
        self.register_buffer("absmax", absmax)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W (out x in)."""
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(self.codes, self.absmax).to(dtype)


class Nf4Linear(QuantisedLinear):
    """W in 4 bits, with a scale for every ``BLOCK`` numbers."""

    codes: Tensor
    absmax: Tensor
    table: Tensor
    scale_absmax: Tensor
    scale_table: Tensor
    scale_offset: Tensor
    double_quant: bool

    def quantise(self, weight: Tensor, how: Quantisation) -> None:
        """Put the place of the nearest of 16 numbers for each, and quantise the scales too where that is wanted."""
        from bitsandbytes.functional import quantize_4bit

        codes, state = quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, compress_statistics=how.double, quant_type="nf4"
        )
        held = {"codes": codes, "absmax": state.absmax, "table": state.code}
        if how.double:
            held |= {
                "scale_absmax": state.state2.absmax,
                "scale_table": state.state2.code,
                "scale_offset": state.offset,
            }
        for name, tensor in held.items():
            self.register_buffer(name, tensor)
        self.double_quant = how.double

    def state(self, dtype: torch.dtype) -> Any:
        """What bitsandbytes has beside the codes, for a weight in ``dtype``."""
        from bitsandbytes.functional import QuantState

        scales, offset = None, None
        if self.double_quant:
            offset = self.scale_offset
            scales = QuantState(self.scale_absmax, code=self.scale_table, blocksize=256, dtype=torch.float32)
        shape = torch.Size((self.out_features, self.in_features))
        return QuantState(self.absmax, shape, self.table, BLOCK, "nf4", dtype, offset, scales)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W (out x in)."""
        from bitsandbytes.functional import dequantize_4bit

        dense: Tensor = dequantize_4bit(self.codes, self.state(dtype))
        return dense

    def product(self, x: Tensor) -> Tensor:
        """``W x``: on a GPU a kernel reads the codes themselves where that is faster."""
        from bitsandbytes import matmul_4bit

        out: Tensor = matmul_4bit(x, self.codes, quant_state=self.state(x.dtype))
        return out


class Int4Linear(QuantisedLinear):
    """W in 4 bits, with a scale and a zero point for every ``group`` inputs of a row."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group: int

    def quantise(self, weight: Tensor, how: Quantisation) -> None:
        """Put each number's place among 16 between the least and the largest of its group."""
        for name, tensor in zip(("codes", "scale", "zero"), round_groups(weight, how.group), strict=True):
            self.register_buffer(name, tensor)
        self.group = how.group

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W (out x in)."""
        return dense_groups(self.codes, self.scale, self.zero, self.in_features).to(dtype)


class MixedLinear(QuantisedLinear):
    """W in a precision of its own, which the shape of ``codes`` tells."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    largest: Tensor

    def quantise(self, weight: Tensor, how: Quantisation) -> None:
        """Put each number's place between the least and the largest of its group."""
        held = few_bits.round_to(weight, how.precision)
        self.register_buffer("codes", few_bits.packed(held, how.precision.bits))
        for name in ("scale", "zero", "largest"):
            self.register_buffer(name, getattr(held, name))

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W (out x in)."""
        held = few_bits.Levels(few_bits.unpacked(self.codes), self.scale, self.zero, self.largest)
        return few_bits.dense(held, self.in_features).to(dtype)


class DenseForNow(torch.autograd.Function):
    """``W x`` with a W that is made dense in the forward pass, and once more on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        """(..., out)."""
        ctx.layer = layer
        return F.linear(x, layer.dense(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """That of x (..., in)."""
        return grad @ ctx.layer.dense(grad.dtype), None


KINDS: dict[str, type[QuantisedLinear]] = {
    "int4": Int4Linear,
    "int8": Int8Linear,
    MIXED: MixedLinear,
    "nf4": Nf4Linear,
}
OURS = ("int4", MIXED)
"""Those that need no other package."""


def check_installed(kind: str) -> None:
    """RecipeError where ``kind`` needs bitsandbytes, and that is not there."""
    if kind not in OURS and importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"weights in {kind} need the package bitsandbytes, which is not installed",
            key=KEY,
            valid=", ".join((NONE, *OURS)) + ", without it",
            hint="pip install 'lorakit[quantized]'",
        )


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised: ``model.quantization`` and what belongs to it.

    Example:
        >>> linear = nn.Linear(64, 32).requires_grad_(False)
        >>> Quantisation("int4").quantise(linear)
        >>> type(linear).__name__
        'Int4Linear'
    """

    kind: str
    double: bool = False
    compute_dtype: torch.dtype | None = None
    group: int = GROUP
    bits: float = BITS
    """A number that all matrices take at most, where they are mixed."""
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    """Site -> precision, where they are mixed and it is known."""
    precision: Precision = PRECISIONS[0]
    """That of one matrix (``at``)."""

    def at(self, site: str) -> Quantisation:
        """How the matrix of ``site`` is quantised."""
        return replace(self, precision=self.precisions.get(site, PRECISIONS[0])) if self.kind == MIXED else self

    def check_bits(self, linears: Collection[nn.Linear]) -> None:
        """RecipeError (key ``model.quantization_bits``) where these matrices cannot be mixed so, or need not."""
        if self.kind != MIXED:
            return
        fewest, most = possible_bits([(each.out_features, each.in_features) for each in linears])
        if not fewest <= self.bits <= most:
            why = "are fewer than they can take" if self.bits < fewest else "are more than they ever take"
            raise RecipeError(
                f"{self.bits:g} bits a number {why}, with scales and zero points, in this model",
                key=BITS_KEY,
                valid=f"{math.ceil(100 * fewest) / 100:.2f} to {math.floor(100 * most) / 100:.2f}",
            )

    def settled(self, model: nn.Module, anatomy: Anatomy, fisher: Mapping[str, Tensor]) -> Quantisation:
        """The same with a precision for every matrix, where they are mixed and none is known; fisher: site -> F, where it is known."""
        if self.kind != MIXED or self.precisions:
            return self
        first = {module: name for name, module in reversed(named_linears(model, anatomy).items())}
        weights = {name: module.weight.detach() for module, name in reversed(first.items())}
        return replace(self, precisions=assign(weights, self.bits, fisher))

    @torch.no_grad()
    def quantise(self, module: nn.Linear, instead: Tensor | None = None) -> None:
        """Quantise the frozen weight of a plain Linear in place, or another one (out x in) ``instead``; it becomes a QuantisedLinear."""
        weight = module.weight.detach()
        del module._parameters["weight"]
        module.__class__ = KINDS[self.kind]
        assert isinstance(module, QuantisedLinear)
        module.dtype, module.compute_dtype, module.leaf = weight.dtype, self.compute_dtype, None
        module.quantise(weight if instead is None else instead, self)

    @torch.no_grad()
    def put(self, module: nn.Linear, weight: Tensor) -> Tensor:
        """Keep ``weight`` (out x in) quantised in a frozen module, in place of what it has; what is kept, dense in weight's dtype."""
        if isinstance(module, QuantisedLinear):
            module.quantise(weight, self)
        else:
            self.quantise(module, weight)
        kept: Tensor = module.dense(weight.dtype)  # type: ignore[operator]
        return kept


def quantise_sites(model: nn.Module, anatomy: Anatomy, how: Quantisation) -> str:
    """Quantise every frozen plain Linear of the layers that is not yet; what was done, in words. RecipeError where there is none."""
    named = named_linears(model, anatomy)
    linears = list(named.values())
    before = sum(module.in_features * module.out_features * dense_dtype(module).itemsize for module in linears)
    for name, module in named.items():
        if type(module) is nn.Linear:  # and not one that stands at two places, or came from disk so
            how.at(name).quantise(module)
    after = sum(buffer.nbytes for module in set(linears) for buffer in module.buffers(recurse=False))
    others = len(anatomy.sites) - len(linears)
    left = f", {others} others are not" if others else ""
    words = f"{len(linears)} projections are quantised to {how.kind}, {after / before:.0%} of their bytes before{left}"
    return words + mixture(linears) if how.kind == MIXED else words


def mixture(linears: Sequence[nn.Linear]) -> str:
    """How many of these matrices have how many bits, and what a number takes, scales and zero points counted."""
    modules = [module for module in set(linears) if isinstance(module, MixedLinear)]
    counts = Counter(few_bits.precision_of(module.codes).bits for module in modules)
    taken = 8 * sum(buffer.nbytes for module in modules for buffer in module.buffers(recurse=False))
    average = taken / sum(module.in_features * module.out_features for module in modules)
    each = ", ".join(f"{count} in {bits} bits" for bits, count in sorted(counts.items()))
    return f": {each}; {average:.3f} bits a number, scales and zero points counted"


def named_linears(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Linear]:
    """Site -> the frozen Linear of the layers, plain or quantised. RecipeError where there is none."""
    linears = {
        site.name: module
        for site in anatomy.sites
        if isinstance(module := model.get_submodule(site.name), QuantisedLinear)
        or (type(module) is nn.Linear and not module.weight.requires_grad)
    }
    if not linears:
        raise RecipeError(
            f"no layer of this {anatomy.family} model has a plain Linear that could be quantised",
            key=KEY,
            valid=NONE,
            hint="model.dtype=bfloat16 halves its memory",
        )
    return linears


def dense_dtype(module: nn.Linear) -> torch.dtype:
    """The dtype of W, or of what it is made dense in."""
    return module.dtype if isinstance(module, QuantisedLinear) else module.weight.dtype


def is_frozen_linear(module: nn.Module) -> bool:
    """Whether it is a plain Linear whose weight does not train."""
    return type(module) is nn.Linear and not module.weight.requires_grad


def number_count(model: nn.Module) -> int:
    """How many numbers the model has in parameters and in quantised weights."""
    plain = sum(parameter.numel() for parameter in model.parameters())
    return plain + sum(module.in_features * module.out_features for module in quantised_modules(model))


def quantised_modules(model: nn.Module) -> Iterator[QuantisedLinear]:
    """Those of the model."""
    return (module for module in model.modules() if isinstance(module, QuantisedLinear))


@contextmanager
def weight_leaves(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Their weights as autograd can be asked for them, without ``requires_grad``; those of quantised modules are dense meanwhile."""
    quantised = [module for module in modules if isinstance(module, QuantisedLinear)]
    for module in quantised:
        module.leaf = module.weight
    try:
        yield [
            module.weight if isinstance(module, QuantisedLinear) else module.get_parameter("weight")
            for module in modules
        ]
    finally:
        for module in quantised:
            module.leaf = None
