"""One forward pass for rows that belong to several adapted models on one backbone.

    rows of A  --+             +-- x W^T + b, all rows at once --+-- + s dW_A x   its rows --+             +-- read-out and head of A
    rows of B  --+-- layers ---+                                 +-- + s dW_B x   its rows --+-- layers ---+-- read-out and head of B
    rows of C  --+             +---------------------------------+---------------------------+             +-- read-out and head of C

The base model is gone through once. A module that one of the models has made another, by an adapter or by parameters of its own, gives
every model's rows what that model's module gives: where the update is a sum, what is frozen is computed for all rows, and each model's
delta is added on its own, or the thin factors of all lines at once where an adapter has few; elsewhere each module computes its rows.
All other modules know nothing of it. This holds where a module takes rows as its input's first axis. What changes the rows' length or
stands between modules (virtual tokens, prefixes, shortcuts) is not mixed, nor are models whose base model is called in another way than
with the text's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.factored import Factored
from lorakit.adapters.switching import DROPPED, is_plain_sum

Tensor = torch.Tensor
FEW = 4  # lines an adapter: below that many, batched products are quicker than one pair of products for each adapter
Rows = Sequence[tuple[str, slice]]
"""(model, which lines of the batch are its), in order, every line once."""


@dataclass(frozen=True)
class Own:
    """What a model has in a module's place: the whole ``module``, and the one ``adapter`` on it where it is a sum that can be added."""

    module: nn.Module
    adapter: Adapter | None


class MixedRows:
    """A base model that computes the rows of several models.

    Args:
        base: the base model, with modules of its own; it is changed.
        layers: where its layers are, as paths.
    """

    def __init__(self, base: nn.Module, layers: Collection[str]):
        self.base = base
        self.layers = tuple(f"{path}." for path in layers)
        self.owners: dict[str, dict[str, Own]] = {}
        """Module -> model -> what that has there."""
        self.rows: Rows = ()

    def plug(self, name: str, adapted: AdaptedModel, inputs: Mapping[str, Tensor]) -> str:
        """Take the rows of this model too; why that cannot be, where it cannot.

        inputs: any batch of two lines, of another length than two, on which it is tried.
        """
        if refusal := not_by_rows(adapted):
            return refusal
        own: nn.Module = adapted.backbone.model.base_model
        known = dict(self.base.named_modules())
        changed = {path: owned for path, module in inner_modules(own) if (owned := own_part(module, known.get(path)))}
        if foreign := sorted(path for path in changed if path not in known):
            return f"it has a part of its own, {foreign[0]}, that the backbone lacks"
        for path, owned in changed.items():
            self.owners.setdefault(path, {})[name] = owned
            known[path].forward = partial(self.forward, path)
        refusal = self.tried(name, own, inputs, changed)
        if refusal:
            self.unplug(name)
        return refusal

    def unplug(self, name: str) -> None:
        """Forget a model; where none is left, a module computes by itself again."""
        for path in [path for path, owners in self.owners.items() if owners.pop(name, None) and not owners]:
            del self.owners[path]
            self.base.get_submodule(path).__dict__.pop("forward", None)

    @torch.inference_mode()
    def tried(self, name: str, own: nn.Module, inputs: Mapping[str, Tensor], changed: Collection[str]) -> str:
        """Whether every changed module sees rows, and the model's outputs come out: empty where it is so, else why not."""
        shapes: dict[str, torch.Size] = {}

        def look(path: str, module: nn.Module, given: tuple[Any, ...]) -> None:
            shapes[path] = given[0].shape if given and isinstance(given[0], Tensor) else torch.Size()

        hooks = [own.get_submodule(path).register_forward_pre_hook(partial(look, path)) for path in changed]
        lines = len(inputs["input_ids"])
        try:
            alone = own(**inputs).last_hidden_state
            for path, shape in shapes.items():
                if not shape or shape[0] != lines or (len(shape) < 3 and path.startswith(self.layers)):
                    return f"{path} does not take rows one by one"
            mixed = self(inputs, [(name, slice(0, 1)), (name, slice(1, lines))]).last_hidden_state
        except Exception as error:  # whatever a family's own code says of such a call
            return f"its base model cannot be called by itself: {error}"
        finally:
            for hook in hooks:
                hook.remove()
        tolerance = math.sqrt(torch.finfo(alone.dtype).eps) * float(alone.abs().max())
        if not torch.allclose(mixed, alone, rtol=0.0, atol=tolerance):
            return "its outputs are others where its rows share a pass"
        return ""

    def __call__(self, inputs: Mapping[str, Tensor], rows: Rows, *, states: bool = False) -> Any:
        """What the base model gives for a batch; states: those of every layer too."""
        self.rows = rows
        try:
            return self.base(**inputs, **({"output_hidden_states": True} if states else {}))
        finally:
            self.rows = ()

    def forward(self, path: str, x: Tensor) -> Tensor:
        """The module at ``path``: of every row what its model makes of it."""
        module, owners = self.base.get_submodule(path), self.owners[path]
        frozen = partial(type(module).forward, module)
        parts = [(lines, owners.get(name)) for name, lines in self.rows]
        if all(owned is None or owned.adapter is not None for _, owned in parts):
            y: Tensor = frozen(x)
            sums = [(lines, owned.adapter) for lines, owned in parts if owned is not None and owned.adapter is not None]
            if len(x) < FEW * len(parts) and all(is_thin(adapter, y, x) for _, adapter in sums):
                return added_by_lines(y, x, sums)
            for lines, adapter in sums:
                y[lines] = added(adapter, y[lines], x[lines])
            return y
        return torch.cat([frozen(x[lines]) if owned is None else owned.module(x[lines]) for lines, owned in parts])


def added(adapter: Adapter, y: Tensor, x: Tensor) -> Tensor:
    """``y + s dW x`` in the dtype of y, for what the frozen module gives of x, which may be overwritten."""
    return adapter.delta.added(y, x.to(adapter.delta_dtype()), adapter.scale).to(y.dtype)


def is_thin(adapter: Adapter, y: Tensor, x: Tensor) -> bool:
    """Whether its update is a product of two factors, in the dtype of all the rest."""
    thin = isinstance(adapter.delta, Factored) and adapter.delta.by_factors
    return thin and x.dtype == y.dtype == adapter.delta_dtype()


def added_by_lines(y: Tensor, x: Tensor, sums: Sequence[tuple[slice, Adapter]]) -> Tensor:
    """``y + b (s a x)`` with the factors of each line's own adapter, in two batched products; y may be overwritten.

    x: (lines, ..., in), y: (lines, ..., out). A line without an adapter has factors of zeros, one of a lower rank some rows of zeros.
    """
    pairs = [(lines, adapter.scale, *cast(Factored, adapter.delta).factors()) for lines, adapter in sums]
    rank = max((len(a) for _, _, _, a in pairs), default=0)
    if rank == 0:
        return y
    down, up = x.new_zeros(len(x), rank, x.shape[-1]), y.new_zeros(len(x), rank, y.shape[-1])
    for lines, scale, b, a in pairs:
        down[lines, : len(a)], up[lines, : len(a)] = scale * a, b.T
    flat = y.reshape(len(y), -1, y.shape[-1])
    flat.baddbmm_(torch.bmm(x.reshape(len(x), -1, x.shape[-1]), down.mT), up)
    return flat.view(y.shape)


def not_by_rows(adapted: AdaptedModel) -> str:
    """Why a model's rows cannot share a pass with others', as far as its parts tell; empty where they may."""
    config = adapted.backbone.model.config
    if adapted.wirings:
        return (
            "virtual tokens, prefixes and shortcuts stand between modules, and routers of whole rows look at all of one"
        )
    if config.is_encoder_decoder:
        return "its architecture has a decoder that is given more than the text"
    if adapted.backbone.padding.equal:
        return f"{config.model_type} models take padding for text, and only rows of one length share a pass"
    return ""


def inner_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A model's modules by path, without those that adapters are made of."""
    yield path, module
    for name, child in module.named_children():
        if not isinstance(child, Adapter):
            yield from inner_modules(child, f"{path}.{name}" if path else name)


def own_part(module: nn.Module, plain: nn.Module | None) -> Own | None:
    """What a model has in place of the backbone's module ``plain``; None where it is that, or is left out without being missed."""
    if plain is None:
        return Own(module, None) if any(True for _ in module.parameters(recurse=False)) else None
    if "forward" in module.__dict__:
        present = [each for each in module.children() if isinstance(each, Adapter) and each.state != DROPPED]
        alone = present[0] if len(present) == 1 and is_plain_sum(present[0]) else None
        return Own(module, alone)
    own = any(each is not plain._parameters.get(name) for name, each in module._parameters.items())
    return Own(module, None) if own else None


@contextmanager
def given_states(model: Any, output: Any, lines: slice) -> Iterator[None]:
    """Within it the model's base model gives these lines of what was computed, whatever it is called with."""
    base = model.base_model
    base.forward = partial(given, lines_of(output, lines))
    try:
        yield
    finally:
        del base.forward


def given(output: Any, *args: Any, **kwargs: Any) -> Any:
    """``output``."""
    return output


def lines_of(output: Any, lines: slice) -> Any:
    """The same lines of every tensor in a base model's output."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[lines]
        return tuple(map(cut, value)) if isinstance(value, tuple) else None

    return type(output)(**{name: cut(value) for name, value in output.items()})
