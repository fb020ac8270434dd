"""Generalised LoRA (Chavan et al. 2023, section 2): a weight and its bias are each scaled and shifted, by as much as is asked for.

W' = W + W o A + B          o: element by element                A, B: out x in     lora, vector, scalar or none
b' = b + b o D + E + W C    W C: matrix times vector             C: in              lora, vector or none
                                                                 D, E: out          vector, scalar or none

lora: Xd Xu, with Xd (n x r) zero at the start and Xu (r x m) drawn;  vector: one number a row;  scalar: one number;  none: not there

y = (1 + a) o (W x + b) - a o b + ... where A is a vector or a scalar a: only A = lora needs a product of the weight's size.

In mode `supernet` all choices of a tensor share one storage: a vector is the first column of Xd, a scalar its first
element, and `configure` says which of them the layer is. A fixed configuration has only what it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch.nn import functional as F

from lorakit.adapters.delta import Delta, Layer, deltas
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.shared import Shared
from lorakit.backbone.site import Site

Tensor = torch.Tensor
LORA, VECTOR, SCALAR, NONE = "lora", "vector", "scalar", "none"
CHOICES: dict[str, tuple[str, ...]] = {
    "A": (LORA, VECTOR, SCALAR, NONE),
    "B": (LORA, VECTOR, SCALAR, NONE),
    "C": (LORA, VECTOR, NONE),
    "D": (VECTOR, SCALAR, NONE),
    "E": (VECTOR, SCALAR, NONE),
}
"""What each of the five may be: 432 configurations a layer. The first of each is its default, and in a supernet its storage."""
OF_THE_BIAS = ("C", "D", "E")
"""What changes b alone: a layer without a bias has nowhere to merge it."""


class GLoRA(Delta):
    """W' = W + W o A + B, b' = b + b o D + E + W C, in one of 432 configurations."""

    name = "glora"
    roles: ClassVar = {"Ad": "B", "Au": "A", "Bd": "B", "Bu": "A", "Cd": "B", "Cu": "A", "D": "vector", "E": "vector"}
    rank_axes: ClassVar = {"Ad": 1, "Au": 0, "Bd": 1, "Bu": 0, "Cd": 1, "Cu": 0}
    starts: ClassVar = dict.fromkeys(("Ad", "Bd", "Cd", "D", "E"), 0.0)
    options: ClassVar = {
        "A": Option(LORA, "what scales the elements of W", choices=CHOICES["A"]),
        "B": Option(LORA, "what is added to W", choices=CHOICES["B"]),
        "C": Option(LORA, "what W maps onto the bias", choices=CHOICES["C"]),
        "D": Option(VECTOR, "what scales the bias", choices=CHOICES["D"]),
        "E": Option(VECTOR, "what is added to the bias", choices=CHOICES["E"]),
        "mode": Option(
            "fixed", "fixed: this configuration; supernet: the storage of all of them", choices=("fixed", "supernet")
        ),
    }
    kinds: ClassVar = ("linear", "conv1d")
    additive: ClassVar = False
    keeps_dense: ClassVar = "keeps a product of each dense weight for the way back"

    def __init__(self, site: Site, rank: int, options: Options = NO_OPTIONS, shared: Shared | None = None):
        super().__init__(site, rank, options, shared)
        self.is_supernet = self.settings["mode"] == "supernet"
        self.configuration = configuration(site, self.settings)
        ranked = {name for name, tensor in self.named_parameters() if tensor.ndim > 1}
        axes = {name: axis for name, axis in type(self).rank_axes.items() if name in ranked}
        self.__dict__["rank_axes"] = axes  # vectors and scalars have no rank

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """Only what the configuration uses; in a supernet what any of them may use."""
        largest = {letter: choices[0] for letter, choices in CHOICES.items()}
        chosen = configuration(site, largest if options.get("mode") == "supernet" else options)
        found: dict[str, tuple[int, ...]] = {}
        for letter, (rows, columns) in extents(site).items():
            choice = chosen[letter]
            if choice == LORA:
                found |= {f"{letter}d": (rows, rank), f"{letter}u": (rank, columns)}
            elif choice != NONE:
                found[f"{letter}d" if letter in "ABC" else letter] = (rows if choice == VECTOR else 1,)
        return found

    @classmethod
    def stuck(cls, trains: Callable[[str], bool]) -> str:
        """It is a sum: D and E can move alone, but where Xu trains Xd must too."""
        moves = trains("B") or (trains("vector") and not trains("A"))
        return "" if moves else "Ad"

    def is_zero(self) -> bool:
        """Whether every Xd, D and E is zero."""
        return not any(tensor.any() for name, tensor, _ in self.tensors() if name in self.starts)

    # -- the configuration --------------------------------------------------------------------------------------------

    def configure(self, chosen: Mapping[str, str] | None = None) -> None:
        """Be this configuration of the supernet; the one that the options say where none is given."""
        if not self.is_supernet:
            raise ValueError("only a supernet has more than one configuration")
        self.configuration = configuration(self.site, {**self.settings, **(chosen or {})})

    def used(self) -> dict[str, Tensor]:
        """What the configuration uses of the storage, by the names and in the shapes of a fixed one."""
        fixed = {**self.settings, **self.configuration, "mode": "fixed"}
        found = {}
        for name, shape in self.shapes(self.site, self.rank, fixed).items():
            tensor = self.tensor(name)
            if tensor.ndim > len(shape):
                tensor = tensor[:, 0]
            found[name] = tensor[: shape[0]]
        return found

    # -- the function -------------------------------------------------------------------------------------------------

    def layer_forward(self, layer: Layer, x: Tensor, scale: float) -> Tensor:
        """``W' x + b'``, for x (..., in) -> (..., out), in the layer's own dtype."""
        base = layer.frozen_forward(x)
        weight, bias, parts = layer.base_weight(), layer.base_bias(), self.used()
        wide = x if not parts else x.to(next(iter(parts.values())).dtype)
        out = base
        if "Au" in parts:
            out = out + F.linear(wide, weight * (parts["Ad"] @ parts["Au"]))
        elif "Ad" in parts:
            out = out * (1 + parts["Ad"])
            if bias is not None:
                out = out - parts["Ad"] * bias
        if "Bu" in parts:
            out = out + F.linear(F.linear(wide, parts["Bu"]), parts["Bd"])
        elif "Bd" in parts:
            out = out + wide.sum(dim=-1, keepdim=True) * parts["Bd"]
        shift = bias_shift(parts, weight, bias)
        return (out if shift is None else out + shift).to(base.dtype)

    def effective_weight(self, weight: Tensor, scale: float) -> Tensor:
        """W + W o A + B."""
        parts = self.used()
        a, b = (spread(parts, letter) for letter in "AB")
        out = weight if a is None else weight + weight * a.to(weight.dtype)
        return out if b is None else out + b.to(weight.dtype)

    def effective_bias(self, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor | None:
        """b + b o D + E + W C, with the W from before any merging."""
        shift = bias_shift(self.used(), weight, bias)
        return bias if bias is None or shift is None else bias + shift.to(bias.dtype)


def extents(site: Site) -> dict[str, tuple[int, int]]:
    """Letter -> rows and columns of what it stands for."""
    weight, column = (site.out_features, site.in_features), (site.out_features, 1)
    return {"A": weight, "B": weight, "C": (site.in_features, 1), "D": column, "E": column}


def configuration(site: Site, options: Mapping[str, str]) -> dict[str, str]:
    """Letter -> choice as ``options`` say it, the default where they do not; nothing of the bias where the site has none."""
    chosen = {letter: options.get(letter, choices[0]) for letter, choices in CHOICES.items()}
    return chosen if site.bias else chosen | dict.fromkeys(OF_THE_BIAS, NONE)


def choices_on(site: Site) -> dict[str, tuple[str, ...]]:
    """Letter -> what it may be on ``site``."""
    return {letter: CHOICES[letter] for letter in CHOICES if site.bias or letter not in OF_THE_BIAS}


def written(chosen: Mapping[str, str]) -> str:
    """``A=lora,B=none,...``, as ``adapter.site_options`` takes it."""
    return ",".join(f"{letter}={choice}" for letter, choice in chosen.items())


def spread(parts: Mapping[str, Tensor], letter: str) -> Tensor | None:
    """A or B as something that broadcasts to (out x in)."""
    if f"{letter}d" not in parts:
        return None
    down = parts[f"{letter}d"]
    return down @ parts[f"{letter}u"] if f"{letter}u" in parts else down[:, None]


def bias_shift(parts: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """b o D + E + W C (out,); None where the configuration has none of them."""
    terms = []
    if "D" in parts and bias is not None:
        terms.append(bias * parts["D"])
    if "E" in parts:
        terms.append(parts["E"])
    if "Cd" in parts:
        c = parts["Cd"] @ parts["Cu"].flatten() if "Cu" in parts else parts["Cd"]
        terms.append(torch.mv(weight.to(c.dtype), c))
    return sum(terms[1:], terms[0]) if terms else None


deltas.register(GLoRA)
