"""The states of an adapter, and which forward its module has in each.

    DROPPED    not in the function: the module has its own forward back, and costs what the frozen one costs
    FROZEN     in the function, and nothing of it trains
    ON         in the function, and its tensors train
    WATCHED    not in the function, but its tensors get the gradients they would have if it were: a search looks at them

The way an adapter computes is chosen here, once, when it is switched. From then on the module's ``forward`` is that one
method of the adapter, which asks nothing more. Where a module has several adapters, each stands on the one before
(``Adapter.beneath``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import torch
from torch import nn

from lorakit.adapters.factored import Factored
from lorakit.adapters.whole import Whole
from lorakit.errors import RunError

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter

DROPPED, FROZEN, ON, WATCHED = "dropped", "frozen", "on", "watched"

Forward = Callable[[torch.Tensor], torch.Tensor]
"""x (..., in) -> y (..., out)."""


def switch(adapter: Adapter, state: str) -> None:
    """Put the adapter into ``state``. Raises RunError, with the adapter dropped, where another one on its module forbids that."""
    adapter.state = state
    freeze(adapter)
    if state == ON:
        thaw(adapter)
    elif state == WATCHED:
        thaw(adapter, but=adapter.delta.without_gradient())
    if adapter.base is None:
        return
    if adapter.delta.replaces_parameters:
        exchange_parameters(adapter, adapter.base)
    else:
        stack(adapter, adapter.base)


def freeze(adapter: Adapter) -> None:
    """No tensor receives gradients."""
    for parameter in adapter.parameters():
        parameter.requires_grad_(False)


def thaw(adapter: Adapter, but: Collection[str] = ()) -> None:
    """The trained tensors receive gradients, ``but`` for some, and for those that are frozen for good."""
    for name, parameter, _ in adapter.trained_tensors():
        parameter.requires_grad_(name not in adapter.frozen_for_good and name not in but)


def freeze_for_good(adapter: Adapter, name: str) -> None:
    """Stop training the tensor ``name``, whatever the adapter's state is and will be."""
    adapter.frozen_for_good.add(name)
    {key: tensor for key, tensor, _ in adapter.tensors()}[name].requires_grad_(False)


def stack(adapter: Adapter, base: nn.Module) -> None:
    """Give ``base`` the forward of the adapters on it that are not dropped, each standing on the one before.

    Raises RunError where there are two at once and one of them is no plain sum: their order would matter.
    """
    others = [child for child in base.children() if isinstance(child, type(adapter))]
    present = [a for a in (others if adapter in others else [*others, adapter]) if a.state != DROPPED]
    if len(present) > 1 and not all(is_plain_sum(a) for a in present):
        drop(adapter)
        raise RunError(
            f"two adapters at once on {adapter.site.name}, and one of them is no plain sum W + s dW",
            hint="switch one of them off first",
        )
    base.__dict__.pop("forward", None)
    beneath = None
    for each in present:
        each.__dict__["beneath"] = beneath
        beneath = each.watched if each.state == WATCHED else adapted_forward(each)
    if beneath is not None:
        base.forward = beneath


def exchange_parameters(adapter: Adapter, base: nn.Module) -> None:
    """Put the adapter's copies in the place of the module's own parameters, or give it those back.

    Raises RunError where another adapter's are there.
    """
    held, originals = base._parameters, adapter.originals
    own = {name: adapter.delta.get_parameter(name) for name in originals}
    if any(held[name] is not originals[name] and held[name] is not own[name] for name in originals):
        if adapter.state == DROPPED:
            return
        drop(adapter)
        raise RunError(
            f"two adapters at once on {adapter.site.name}, and both stand in for its own parameters",
            hint="switch one of them off first",
        )
    held.update(originals if adapter.state == DROPPED else own)


def drop(adapter: Adapter) -> None:
    """Dropped after all, without a look at its module."""
    adapter.state = DROPPED
    freeze(adapter)


def adapted_forward(adapter: Adapter) -> Forward:
    """How the module computes with this adapter in the function."""
    if not adapter.delta.additive:
        return adapter.rewritten
    fused = can_fuse(adapter)
    if adapter.spec.decomposition == "magnitude":
        return adapter.decomposed_fused if fused else adapter.decomposed
    if fused:
        return adapter.added_fused
    if isinstance(adapter.delta, Whole) and on_plain_linear(adapter):
        return adapter.added_to_weight
    if not adapter.on_weight or adapter.base_dtype == adapter.delta_dtype():
        return adapter.added
    return adapter.added_in_float32


def can_fuse(adapter: Adapter) -> bool:
    """Whether ``ops.thin.adapted_linear`` computes it: a product of two factors beside a frozen linear layer."""
    return isinstance(adapter.delta, Factored) and adapter.delta.by_factors and on_plain_linear(adapter)


def on_plain_linear(adapter: Adapter) -> bool:
    """Whether it stands on nothing but a frozen linear layer, with the same input in the same dtype."""
    return (
        type(adapter.base) is nn.Linear
        and adapter.beneath is None
        and adapter.spec.dropout == 0
        and adapter.base.weight.dtype == adapter.delta_dtype()
    )


def is_plain_sum(adapter: Adapter) -> bool:
    """Whether it computes W x + b + s dW x, which commutes with other sums."""
    return adapter.delta.additive and adapter.spec.decomposition == "none"
