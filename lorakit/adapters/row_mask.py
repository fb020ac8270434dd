"""Which tokens of the forward pass that goes on are text, for what looks at a row as a whole: padding is no part of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.switching import DROPPED
from lorakit.backbone.pair_texts import rows_of_nothing
from lorakit.errors import RunError

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter

TOKENS = 5
"""Of the rows on which it is tried what modules are given."""


class RowMask:
    """The attention mask of a model's last forward pass: layers that are recomputed on the way back still find it."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None
        """(rows, tokens) true where there is text; None before any pass."""

    def watch(self, model: Any) -> RemovableHandle:
        """Note the mask of every pass of the transformers model from here on, until the handle is removed."""
        base: nn.Module = model.base_model
        return base.register_forward_pre_hook(partial(note, self), with_kwargs=True)

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The mask (rows, tokens) of what a layer is given, x (rows, tokens, width) or (rows tokens, width); all text before any pass.

        Raises RunError where x is not all tokens of the rows.
        """
        if self.mask is None:
            return torch.ones(x.shape[:-1] if x.ndim > 2 else (1, len(x)), dtype=torch.bool, device=x.device)
        if x.shape[:-1].numel() != self.mask.numel():
            given, held = [*x.shape[:-1]], [*self.mask.shape]
            raise RunError(f"a layer that looks at whole rows was given tokens {given} of rows and tokens {held}")
        return self.mask


# Bound to its arguments with ``partial``, so that a deep copy of the model has its own.


def note(held: RowMask, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A pre-hook (with kwargs): keep the mask; without one all tokens are text."""
    given = {**inspect.signature(base.forward).bind_partial(*args).arguments, **kwargs}
    mask, text = given.get("attention_mask"), given.get("input_ids")
    if mask is None:
        text = given["inputs_embeds"] if text is None else text
        mask = torch.ones(text.shape[:2], device=text.device)
    held.mask = mask.bool()


def mean_of(rows: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The mean (rows x width) over the tokens of ``rows`` (rows x tokens x width) that are ``text`` (rows x tokens)."""
    weights = text.to(rows.dtype)
    return torch.einsum("nti,nt->ni", rows, weights) / weights.sum(dim=1, keepdim=True).clamp_min(1)


class RowMaskWiring:
    """Has the mask noted while an adapter that looks at whole rows is in the model."""

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter]):
        self.model = model
        self.adapters = list(adapters)
        self.held = RowMask()
        self.handle: RemovableHandle | None = None
        for adapter in adapters:
            adapter.delta.__dict__["row_mask"] = self.held

    def wire(self) -> None:
        """Watch the model where an adapter is not dropped, else leave no trace on it."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
        if any(adapter.state != DROPPED for adapter in self.adapters):
            self.handle = self.held.watch(self.model)


@torch.no_grad()
def not_given_rows(model: Any, modules: Mapping[str, nn.Module]) -> str:
    """The first of ``modules`` that is given anything else than all rows in order, each as its tokens in order; empty where none is.

    Relative positions are none, nor are parts of rows, nor tokens before rows. It is tried on two rows, of which the second then is
    another: just its lines of what a module is given must change.
    """
    found: dict[str, list[torch.Tensor]] = {"": [], **{path: [] for path in modules}}
    base, training = model.base_model, model.training
    hooks = [base.register_forward_pre_hook(partial(keep_ids, found[""]), with_kwargs=True)]
    hooks += [module.register_forward_pre_hook(partial(keep, found[path])) for path, module in modules.items()]
    ids = rows_of_nothing(model, 2, TOKENS, next(model.parameters()).device)
    model.eval()
    try:
        for others in (ids, torch.cat([ids[:1], ids[1:].where(ids[1:] != 1, 0)])):
            model(input_ids=others, attention_mask=torch.ones_like(others))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    one, two = found.pop("")
    changed = (one != two).any(dim=1)

    def are_rows(x: torch.Tensor, other: torch.Tensor) -> bool:
        if x.shape != other.shape:
            return False
        lines = (x - other).abs().amax(dim=-1) > 1e-3 * x.abs().max()  # experts of both rows at once round otherwise
        return lines.numel() == one.numel() and torch.equal(lines.reshape(one.shape).any(dim=1), changed)

    for path, given in found.items():
        half = len(given) // 2
        if not all(map(are_rows, given[:half], given[half:])):
            return path
    return ""


def keep(found: list[torch.Tensor], module: nn.Module, args: tuple[Any, ...]) -> None:
    """A pre-hook: remember what a module is given."""
    found.append(args[0])


def keep_ids(found: list[torch.Tensor], base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A pre-hook (with kwargs): remember the ids."""
    given = {**inspect.signature(base.forward).bind_partial(*args).arguments, **kwargs}
    found.append(given["input_ids" if "input_ids" in given else "inputs"])  # so Perceiver calls them
