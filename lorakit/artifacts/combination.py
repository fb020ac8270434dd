"""Several adapters into one: what a method of combining is given at a site, and what it gives.

The methods are in ``lorakit.artifacts.combinations``. They see updates of the pretrained weight, whatever made them: a decomposed or
an anchored adapter is as good as a plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.anchored import Anchored
from lorakit.adapters.delta import Delta
from lorakit.adapters.deltas.masked import Masked
from lorakit.adapters.options import Option
from lorakit.artifacts.peft.export import thin
from lorakit.backbone.site import Site
from lorakit.errors import RunError
from lorakit.registry import Registry

Tensor = torch.Tensor
Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Update:
    """One adapter's update of one site's weight, its scale included: t = W' - W (out x in), float64.

    factors: (b, a) with t = b a where it is of low rank; full: t itself where it is not; rank: the adapter's, 0 where it has nothing there;
    statistic: what the method needs of training data: the mean squared gradient dL/dW' (out x in), or the mean of x x^T over the
    tokens that the site sees (in x in).
    """

    rank: int
    factors: Factors | None
    full: Tensor | None = None
    statistic: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """t (out x in)."""
        if self.factors is not None:
            return self.factors[0] @ self.factors[1]
        assert self.full is not None
        return self.full


@dataclass(frozen=True)
class Setting:
    """weights: one for each adapter; density: the share of entries that is kept; generator: for what is dropped at random."""

    weights: Sequence[float]
    density: float = 1.0
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Combination:
    """A method of combining.

    combine: (updates of one site, setting) -> the combined update, dense or as factors; weight: each adapter's where none are given,
    None for equal shares; density: where none is given, None for a method that keeps everything; rank: of the result where none is
    given, from the adapters' ranks at a site; needs: the statistic it looks at; learns: whether its weights are learnt on examples
    instead of given; factors: whether every update must be of low rank, and of the same one; options: its own settings.
    """

    name: str
    summary: str
    source: str
    combine: Callable[[Sequence[Update], Setting], Tensor | Factors]
    weight: float | None = None
    density: float | None = None
    rank: Literal["sum", "max"] = "sum"
    needs: Literal["nothing", "fisher", "gram"] = "nothing"
    learns: bool = False
    factors: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)


combinations: Registry[Combination] = Registry("combination", "lorakit.artifacts.combinations")


def nothing_at(site: Site) -> Update:
    """The update of an adapter that has nothing on the site."""
    empty = torch.zeros(0, dtype=torch.float64)
    return Update(0, (empty.reshape(site.out_features, 0), empty.reshape(0, site.in_features)))


@torch.no_grad()
def update_of(adapter: Adapter, wanted: str = "combined") -> Update:
    """The update of an adapter whose tensors are float64, which is to be ``wanted``. RunError where it is more than one of a weight."""
    if not adapter.on_weight or adapter.delta.unmergeable:
        why = adapter.delta.unmergeable or "it is no update of a projection's weight"
        raise RunError(f"{adapter.site.name} cannot be {wanted}: {why}")
    if adapter.own_base:
        why = "its weight was rounded for the run, and other runs have another one"
        raise RunError(f"{adapter.site.name} cannot be {wanted}: {why}")
    if isinstance(adapter.delta, Masked) and adapter.delta.closed_outputs():
        why = "it has closed whole outputs, which no update of low rank is"
        raise RunError(f"{adapter.site.name} cannot be {wanted}: {why}", hint="lorakit merge cuts them out")
    if moves_bias(adapter):
        raise RunError(f"{adapter.site.name} cannot be {wanted}: delta '{adapter.spec.delta}' moves the bias too")
    factors = adapter.delta.factors() if adapter.delta.additive and adapter.spec.decomposition == "none" else None
    if factors is not None:
        b, a = thin(*factors)
        return Update(a.shape[0], (adapter.scale * b, a.detach()))
    weight = adapter.base_weight().double()
    return Update(adapter.rank, None, adapter.effective_weight(weight) - weight)


def moves_bias(adapter: Adapter) -> bool:
    """Whether merging would change the module's bias."""
    plain = isinstance(adapter.delta, Anchored) or type(adapter.delta).effective_bias is Delta.effective_bias
    return not plain and adapter.base_bias() is not None


def weighted_sum(updates: Sequence[Update], setting: Setting) -> Tensor | Factors:
    """sum_i w_i t_i: in factored form, [w_1 b_1, w_2 b_2, ...] [a_1; a_2; ...], where every update has it."""
    pairs = [(weight, update) for weight, update in zip(setting.weights, updates, strict=True) if update.rank]
    if all(update.factors is not None for _, update in pairs):
        factors = [(weight * update.factors[0], update.factors[1]) for weight, update in pairs if update.factors]
        return torch.cat([b for b, _ in factors], dim=1), torch.cat([a for _, a in factors])
    return sum_of([weight * update.dense for weight, update in pairs])


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(tensors)).sum(dim=0)


def truncated(update: Tensor | Factors, rank: int) -> tuple[Factors, float, float]:
    """((b, a), e, n): the nearest b a of at most ``rank`` (Eckart and Young 1936), e = |t - b a|^2 and n = |t|^2 in Frobenius norm.

    The singular values are shared by the two factors. Factors that are thin enough already are taken as they are.
    """
    if isinstance(update, tuple):
        b, a = update
        if a.shape[0] <= rank:
            return (b, a), 0.0, float((b @ a).square().sum())
        left, inner = torch.linalg.qr(b)
        right, outer = torch.linalg.qr(a.T)
        u, s, v = torch.linalg.svd(inner @ outer.T, full_matrices=False)
        u, v = left @ u, v @ right.T
    else:
        u, s, v = torch.linalg.svd(update, full_matrices=False)
    root = s[:rank].sqrt()
    lost = float(s[rank:].square().sum())
    return (u[:, :rank] * root, root[:, None] * v[:rank]), lost, float(s.square().sum())
