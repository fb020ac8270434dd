"""LoRA-adapted shortcuts: trainable low-rank paths beside the residual stream (HeteroLoRA, Zhang et al. 2024, section 3).

With h the layer's input, x the stream after attention (the MLP's input in a post-norm block), S(z) = s B A z:

    res1   x      += S(h)            the residual around attention becomes (I + sBA) h
    mid    x      += S(x of the previous layer)
    res2   output += S(x)            the residual around the MLP
    in     output += S(h)            the layer's input reaches the next layer's input
    cut    output += S(h of the previous layer)      the site belongs to the layer its input comes from

B = 0 at start, and a sum is made before the norm that the block applies anyway (`fused`), so a fresh model is the pretrained one.
`paper` applies the frozen norm a second time for `mid`, `in` and `cut` as the authors' code does (post-norm blocks only); that
second norm stays even while the shortcut is off, and the pretrained function is not kept at start.

Post-norm blocks (BERT, OPT-350M): sums enter through the inputs of the two norms. Pre-norm blocks (Llama, GPT-2): a term of x
enters both the MLP's norm and the layer's output, which carries x on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.switching import DROPPED
from lorakit.backbone.residual_sums import ResidualSums

Tensor = torch.Tensor
Term = Callable[[], Tensor]

AFTER_ATTENTION = ("res1", "mid")
AFTER_MLP = ("res2", "in", "cut")
NORMED_TWICE = {"paper": ("mid", "in", "cut"), "fused": ()}


class Shortcuts:
    """Wires the shortcut adapters of a model into its layers, and wires them anew when some go on or off."""

    def __init__(self, residual_sums: list[ResidualSums], adapters: Iterable[Adapter], norm: str):
        self.residual_sums = residual_sums
        self.adapters = {(adapter.site.layer, adapter.site.role): adapter for adapter in adapters}
        self.second_norm = NORMED_TWICE[norm]
        self.handles: list[RemovableHandle] = []
        self.layer_input = Held()
        self.middle = Held()
        self.carried = Held()
        self.held = (self.layer_input, self.middle, self.carried)
        for index, sums in enumerate(residual_sums):
            own = {role: adapter for (layer, role), adapter in self.adapters.items() if layer == index}
            if own:
                sums.layer.add_module("shortcuts", nn.ModuleDict(own))

    def wire(self) -> None:
        """Install hooks for exactly the shortcuts that are in the function; layers without any keep none. Held activations go."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        for held in self.held:
            held.clear()
        for index, sums in enumerate(self.residual_sums):
            self._wire_layer(index, sums)

    def _wire_layer(self, index: int, sums: ResidualSums) -> None:
        attention, attention_again = self._terms(index, AFTER_ATTENTION, sums.post_norm)
        output, output_again = self._terms(index, AFTER_MLP, sums.post_norm)
        present = self._in_function()
        needs_input = any((index, role) in present for role in ("res1", "in", "cut"))
        needs_middle = (index, "res2") in present or (index + 1, "mid") in present
        hooks = self.handles

        if needs_input:
            hooks.append(
                sums.layer.register_forward_pre_hook(partial(keep_input, self.layer_input, index), with_kwargs=True)
            )
        if sums.post_norm:
            norm, last = sums.attention_norm, sums.output_norm
            assert last is not None
            if attention:
                hooks.append(norm.register_forward_pre_hook(partial(add_to_input, attention)))
            if attention_again is not None:
                hooks.append(norm.register_forward_hook(partial(norm_again, attention_again)))
            if needs_middle:
                hooks.append(norm.register_forward_hook(partial(keep_output, self.middle, index)))
            if output:
                hooks.append(last.register_forward_pre_hook(partial(add_to_input, output)))
            if output_again is not None:
                hooks.append(last.register_forward_hook(partial(norm_again, output_again)))
            return
        if attention:
            hooks.append(
                sums.attention_norm.register_forward_pre_hook(partial(add_and_carry, attention, self.carried, index))
            )
        if needs_middle:
            hooks.append(sums.attention_norm.register_forward_pre_hook(partial(keep_norm_input, self.middle, index)))
        if attention or output:
            hooks.append(sums.layer.register_forward_hook(partial(add_to_output, output, self.carried, index)))

    def _in_function(self) -> Collection[tuple[int, str]]:
        """(layer, role) of the shortcuts in the function."""
        return {key for key, adapter in self.adapters.items() if adapter.state != DROPPED}

    def _terms(self, index: int, roles: tuple[str, ...], post_norm: bool) -> tuple[list[Term], list[Term] | None]:
        """The terms of one sum in layer ``index``: (before its norm, for a second pass through it; None where there is none)."""
        first: list[Term] = []
        second: list[Term] = []
        twice = False
        for role in roles:
            # mid is named after the layer it ends in, cut after the layer it starts from
            source = index - 1 if role in ("mid", "cut") else index
            adapter = self.adapters.get((source if role == "cut" else index, role))
            if adapter is None:
                continue
            again = post_norm and role in self.second_norm
            twice = twice or again
            if adapter.state != DROPPED:
                held = self.middle if role in ("mid", "res2") else self.layer_input
                (second if again else first).append(partial(term, adapter, held, source))
        return first, second if twice else None


class Held(dict[int, Tensor]):
    """Layer -> what it held in this forward pass. A copy of the model starts with nothing held."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        return Held()


# What follows is bound to its arguments with ``partial`` and never closes over them: a deep copy of the model copies the
# arguments too, so that its shortcuts are its own.


def term(adapter: Adapter, held: Held, source: int) -> Tensor:
    """S(z) of one shortcut, with z what layer ``source`` held in this forward pass."""
    return adapter(held[source])


def total(terms: list[Term], like: Tensor) -> Tensor:
    """The sum of the terms in the shape and dtype of ``like`` (OPT flattens rows and tokens before its MLP)."""
    summed = terms[0]().reshape(like.shape)
    for further in terms[1:]:
        summed = summed + further().reshape(like.shape)
    return summed.to(like.dtype)


def keep_input(held: Held, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A pre-hook (with kwargs) that holds a layer's input."""
    held[index] = args[0] if args else kwargs["hidden_states"]


def keep_output(held: Held, index: int, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    """A hook that holds a norm's output: the stream after attention in a post-norm block."""
    held[index] = output


def keep_norm_input(held: Held, index: int, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
    """A pre-hook that holds a norm's input: the stream after attention in a pre-norm block."""
    held[index] = args[0]


def add_to_input(terms: list[Term], module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A pre-hook that adds the terms to a module's input."""
    return (args[0] + total(terms, args[0]), *args[1:])


def add_and_carry(
    terms: list[Term], carried: Held, index: int, norm: nn.Module, args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The same, and the added sum is kept for the layer's output, which carries the residual stream on."""
    added = total(terms, args[0])
    carried[index] = added
    return (args[0] + added, *args[1:])


def add_to_output(
    terms: list[Term], carried: Held, index: int, layer: nn.Module, args: tuple[Any, ...], output: Any
) -> Any:
    """A hook that adds what was carried, and the terms, to a layer's output (a tensor, or a tuple that starts with it)."""
    hidden = output[0] if isinstance(output, tuple) else output
    added = carried.pop(index, None)
    if added is not None:
        hidden = hidden + added.reshape(hidden.shape)
    if terms:
        hidden = hidden + total(terms, hidden)
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def norm_again(terms: list[Term], norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A hook that applies the norm a second time, to its own output plus the terms."""
    summed = output + total(terms, output) if terms else output
    return type(norm).forward(norm, summed)
