"""A second, straight-line way to run a layer stack with shortcuts: no hooks, only the layers' own sub-modules and the formulas.

With h a layer's input, x the stream after attention, h' and x' those of the layer before, and S_k(z) = s B A z:

    post-norm   x = N1(h + Attn(h) + S_res1(h) + S_mid(x'))      y = N2(x + MLP(x) + S_res2(x) + S_in(h) + S_cut(h'))
    pre-norm    x = h + Attn(N1(h)) + S_res1(h) + S_mid(x')      y = x + MLP(N2(x)) + S_res2(x) + S_in(h) + S_cut(h')

The authors' post-norm form (`paper`) takes mid, in and cut out of those sums and adds them in a second pass of the same norm, which
is there wherever such a site is, on or off:    x = N1(x + S_mid(x'))      y = N2(y + S_in(h) + S_cut(h'))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


@dataclass(frozen=True)
class Block:
    """Where a family keeps the parts of a layer. attention: the module whose first output is projected by ``after_attention``."""

    post_norm: bool
    attention: str
    norms: tuple[str, str]
    mlp: Callable[[Any, Tensor], Tensor]
    after_attention: str = ""


def opt_mlp(layer: Any, x: Tensor) -> Tensor:
    return layer.fc2(layer.activation_fn(layer.fc1(x)))


BLOCKS = {
    "bert": Block(
        post_norm=True,
        attention="attention.self",
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        mlp=lambda layer, x: layer.output.dense(layer.intermediate(x)),
        after_attention="attention.output.dense",
    ),
    "distilbert": Block(True, "attention", ("sa_layer_norm", "output_layer_norm"), lambda layer, x: layer.ffn(x)),
    "opt_postnorm": Block(True, "self_attn", ("self_attn_layer_norm", "final_layer_norm"), opt_mlp),
    "opt": Block(False, "self_attn", ("self_attn_layer_norm", "final_layer_norm"), opt_mlp),
    "gpt2": Block(False, "attn", ("ln_1", "ln_2"), lambda layer, x: layer.mlp(x)),
    "llama": Block(False, "self_attn", ("input_layernorm", "post_attention_layernorm"), lambda layer, x: layer.mlp(x)),
}
BLOCKS |= dict.fromkeys(("roberta", "electra", "deberta", "deberta_v2"), BLOCKS["bert"])
BLOCKS |= dict.fromkeys(("mistral", "qwen2", "gemma"), BLOCKS["llama"])


@dataclass(frozen=True)
class Low:
    """One shortcut's numbers; ``on`` says whether it is in the function."""

    A: Tensor
    B: Tensor
    scale: float
    on: bool = True


def recorded(
    model: nn.Module, block: Block, layers: list[nn.Module], batch: dict[str, Tensor]
) -> tuple[Tensor, list[Any]]:
    """The first layer's input, and what each attention is called with beside its hidden states (masks, positions)."""
    first: list[Tensor] = []
    calls: list[Any] = []
    handles = [
        layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: first.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    ]
    for layer in layers:
        module = layer.get_submodule(block.attention)
        handles.append(
            module.register_forward_pre_hook(
                lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
            )
        )
    model.config.use_cache = False  # a layer run a second time must not find its own keys
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return first[0], calls


def run_by_hand(
    model: nn.Module,
    family: str,
    layers: list[nn.Module],
    batch: dict[str, Tensor],
    shortcuts: Mapping[tuple[int, str], Low],
    norm: str,
) -> Tensor:
    """The last layer's output. shortcuts: (layer that the site is named after, kind) -> its numbers."""
    block = BLOCKS[family]
    h, calls = recorded(model, block, layers, batch)
    previous_h = previous_x = torch.zeros_like(h)

    def attend(layer: nn.Module, call: Any, z: Tensor) -> Tensor:
        args, kwargs = call
        kwargs = {**kwargs, "hidden_states": z} if "hidden_states" in kwargs else kwargs
        out = layer.get_submodule(block.attention)(*((z, *args[1:]) if args else ()), **kwargs)[0]
        return layer.get_submodule(block.after_attention)(out) if block.after_attention else out

    def path(layer: int, kind: str, z: Tensor) -> Tensor:
        low = shortcuts.get((layer, kind))
        return low.scale * (z @ low.A.T) @ low.B.T if low is not None and low.on else torch.zeros_like(z)

    for number, layer in enumerate(layers):
        n1, n2 = (layer.get_submodule(name) for name in block.norms)
        res1, mid = path(number, "res1", h), path(number, "mid", previous_x)
        into, cut = path(number, "in", h), path(number - 1, "cut", previous_h)
        if not block.post_norm:
            x = h + attend(layer, calls[number], n1(h)) + res1 + mid
            y = x + block.mlp(layer, n2(x)) + path(number, "res2", x) + into + cut
        elif norm == "fused":
            x = n1(h + attend(layer, calls[number], h) + res1 + mid)
            y = n2(x + block.mlp(layer, x) + path(number, "res2", x) + into + cut)
        else:
            x = n1(h + attend(layer, calls[number], h) + res1)
            x = n1(x + mid) if (number, "mid") in shortcuts else x
            y = n2(x + block.mlp(layer, x) + path(number, "res2", x))
            y = n2(y + into + cut) if (number, "in") in shortcuts or (number - 1, "cut") in shortcuts else y
        previous_h, previous_x, h = h, x, y
    return h
