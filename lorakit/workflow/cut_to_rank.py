"""A trained adapter at a lower rank than it has, without training it again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.balanced import balance
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
    return max((adapter.units.live for adapter in adapters), default=0)


def cut_to_rank(adapted: AdaptedModel, rank: int, search: str, where: str) -> None:
    """Leave every site at most ``rank`` rank units; one that has no more stays as it is.

    A plain product B A becomes its best approximation of that rank, by its singular values (Eckart & Young 1936), at the scale that it
    has. A run of ``search`` dylora keeps its first units instead, with the scale of that rank, as it was trained to; so does what is no
    plain product, with a warning. Cutting to 4 and then to 2 is cutting to 2. Raises UsageError for a rank above what the run has, and
    for adapters without rank units.
    """
    highest = highest_rank(adapted, where)
    if not 1 <= rank <= highest:
        raise UsageError(f"this run has no rank {rank}", where=where, valid=f"1 to {highest}")
    wider = [adapter for adapter in cuttable(adapted) if adapter.units.live > rank]
    products = [] if search == EVERY_RANK else [adapter for adapter in wider if adapter.delta.plain_product]
    if search != EVERY_RANK and len(products) < len(wider):
        logger.warning(
            "this run was not trained to be cut to rank %d, and its updates are no plain products that could be approximated: "
            "search.method=%s is what does that",
            rank,
            EVERY_RANK,
        )
    for adapter in wider:
        if adapter in products:
            approximate(adapter, rank)
        else:
            adapter.units.keep(adapter.units.mask & (adapter.units.mask.cumsum(0) <= rank))
            adapter.scale = adapter.spec.scale_at(rank)


def cuttable(adapted: AdaptedModel) -> list[Adapter]:
    """The adapters that are in the function."""
    return [adapted.adapters[name] for name in adapted.in_function]


@torch.no_grad()
def approximate(adapter: Adapter, rank: int) -> None:
    """Write the update's largest ``rank`` singular values and vectors into its first units, and close the others."""
    tensors = {name: tensor for name, tensor, _ in adapter.tensors()}
    found = balance(tensors["B"], tensors["A"])
    tensors["B"].copy_(found.b)
    tensors["A"].copy_(found.a)
    adapter.units.keep(torch.arange(adapter.rank) < rank)


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
