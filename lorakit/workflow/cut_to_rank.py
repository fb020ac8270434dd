"""A trained adapter at a lower rank than it has, without training it again."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from torch.nn.functional import pad

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.balanced import balance
from lorakit.adapters.delta import Delta
from lorakit.artifacts.combination import truncated
from lorakit.errors import UsageError

logger = logging.getLogger(__name__)

EVERY_RANK = "dylora"
"""The allocator whose runs serve every rank by their first units."""


def highest_rank(adapted: AdaptedModel, where: str) -> int:
    """The largest live rank of a site. UsageError for adapters without rank units."""
    adapters = cuttable(adapted)
    if fixed := [adapter for adapter in adapters if not adapter.units.divisible]:
        what = f"delta '{fixed[0].spec.delta}' has no rank units to take out"
        raise UsageError(f"this run cannot be cut to a rank: {what}", where=where, hint="leave --rank out")
    return max(map(units_of, adapters), default=0)


def units_of(adapter: Adapter) -> int:
    """The rank units of its update: those that are live, and of a stack of products all that are not zero."""
    factors = adapter.delta.factors() if adapter.delta.stacks else None
    if factors is None:
        return adapter.units.live
    b, a = factors
    return max(adapter.units.live, int((b.any(dim=0) & a.any(dim=1)).sum()))


def cut_to_rank(adapted: AdaptedModel, rank: int, search: str, where: str) -> None:
    """Leave every site at most ``rank`` rank units; one that has no more stays as it is.

    A plain product B A, or a sum of such, becomes its best approximation of that rank, by its singular values (Eckart & Young 1936), at
    the scale that it has; what that leaves out is told. A run of ``search`` dylora keeps its first units instead, with the scale of that
    rank, as it was trained to; so does what is no plain product, with a warning. Cutting to 4 and then to 2 is cutting to 2. Raises
    UsageError for a rank above what the run has, and for adapters without rank units.
    """
    highest = highest_rank(adapted, where)
    if not 1 <= rank <= highest:
        raise UsageError(f"this run has no rank {rank}", where=where, valid=f"1 to {highest}")
    wider = [adapter for adapter in cuttable(adapted) if units_of(adapter) > rank]
    products = [] if search == EVERY_RANK else [a for a in wider if a.delta.plain_product or a.delta.stacks]
    if search != EVERY_RANK and len(products) < len(wider):
        logger.warning(
            "this run was not trained to be cut to rank %d, and its updates are no plain products that could be approximated: "
            "search.method=%s is what does that",
            rank,
            EVERY_RANK,
        )
    lost = whole = 0.0
    for adapter in wider:
        if adapter in products:
            left_out, norm = approximate(adapter, rank)
            lost, whole = lost + left_out, whole + norm
        else:
            adapter.units.keep(adapter.units.mask & (adapter.units.mask.cumsum(0) <= rank))
            adapter.scale = adapter.spec.scale_at(rank)
    if whole:
        logger.info("rank %d leaves out %.2f%% of the updates' norm", rank, 100 * math.sqrt(lost / whole))


def parameters_in(adapted: AdaptedModel, rank: int) -> int:
    """Adapter parameters of what is in the function, cut to ``rank``: those of rank units that do not train too."""
    stacks = [adapter for adapter in cuttable(adapted) if adapter.delta.stacks]
    further = [(min(units_of(a), rank) - a.units.live) * (a.site.in_features + a.site.out_features) for a in stacks]
    return adapted.adapter_parameters(adapted.in_function) + sum(further)


def cuttable(adapted: AdaptedModel) -> list[Adapter]:
    """The adapters that are in the function."""
    return [adapted.adapters[name] for name in adapted.in_function]


@torch.no_grad()
def approximate(adapter: Adapter, rank: int) -> tuple[float, float]:
    """Write the update's largest ``rank`` singular values and vectors into its first units, and close the others.

    Returns the squared norms of what that leaves out, and of the whole update.
    """
    if adapter.delta.stacks:
        return approximate_stack(adapter, rank)
    tensors = {name: tensor for name, tensor, _ in adapter.tensors()}
    found = balance(tensors["B"], tensors["A"])
    tensors["B"].copy_(found.b)
    tensors["A"].copy_(found.a)
    adapter.units.keep(torch.arange(adapter.rank) < rank)
    squares = adapter.scale**2 * found.values.square()
    return float(squares[rank:].sum()), float(squares.sum())


def approximate_stack(adapter: Adapter, rank: int) -> tuple[float, float]:
    """The same of a sum of products, whose units that are not needed become zero."""
    assert isinstance(adapter.delta, Delta)
    factors = adapter.delta.factors()
    assert factors is not None
    wide_b, wide_a = (factor.double() for factor in factors)
    (b, a), lost, norm = truncated((wide_b, wide_a), rank)
    short = wide_a.shape[0] - a.shape[0]
    adapter.delta.set_stack(pad(b, (0, short)), pad(a, (0, 0, 0, short)))
    adapter.units.keep(torch.arange(adapter.rank) < rank)
    return adapter.scale**2 * lost, adapter.scale**2 * norm


def ranks_from(text: str, highest: int, where: str) -> list[int]:
    """Falling ranks from ``1,2,4``, or from ``all``: the powers of two, and the highest. UsageError for what are none."""
    if text.strip() == "all":
        return falling([2**power for power in range(highest.bit_length())] + [highest])
    try:
        found = falling(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"'{text}' names no ranks", valid="numbers such as 1,2,4, or all", where=where) from None
    if wrong := [rank for rank in found if not 1 <= rank <= highest]:
        raise UsageError(f"this run has no rank {wrong[0]}", where=where, valid=f"1 to {highest}")
    return found


def falling(ranks: Iterable[int]) -> list[int]:
    """Each once, the largest first."""
    return sorted(set(ranks), reverse=True)
