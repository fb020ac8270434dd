"""The adapters of finished runs side by side, weighed for every token by one head that has read it (X-LoRA: Buehler & Buehler 2024).

dW x = sum_e p_e B_e A_e x        B_e A_e: the update of run e, its scale included;  p: from the head, for this token and this site

What trains is the head, which all sites share (``scaling_pass``): experts (width + 1) parameters for the whole model at depth 1, and
(width + 1) size + (depth - 2) (size + 1) size + experts (size + 1) above; with scalings by site `experts` is experts times sites there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.delta import deltas
from lorakit.adapters.mixture import Mixture, OfRuns, sum_of_experts, too_few
from lorakit.adapters.options import NO_OPTIONS, Option, Options
from lorakit.adapters.scaling_pass import ScalingPass, Scalings
from lorakit.adapters.starts import linear_uniform, zero
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError

if TYPE_CHECKING:
    from lorakit.adapters.adapter import Adapter

ALL, TOP, NO = "all", "top_k", "none"
MODEL, SITE = "model", "site"
WRITES = ("o", "down")
"""The roles whose outputs are as wide as the model's states; the others' inputs are."""


def states_width(site: Site) -> int:
    """How wide the states of the model are that has this site."""
    return site.out_features if site.role in WRITES else site.in_features


def each_linear_uniform(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Several layers (n x out x in), each as torch's linear layers start."""
    for layer in tensor:
        linear_uniform(layer, generator)


class ScaledExperts(OfRuns):
    """Experts that a head weighs by the last hidden states of a pass without them."""

    name = "scaled_experts"
    over_runs: ClassVar = "scaled_experts"
    shared_roles: ClassVar = dict.fromkeys(("W_in", "c_in", "W_mid", "c_mid", "W_out", "c_out"), "router")
    starts: ClassVar = {
        **OfRuns.starts,
        **dict.fromkeys(("W_in", "W_out"), linear_uniform),
        "W_mid": each_linear_uniform,
        **dict.fromkeys(("c_in", "c_mid", "c_out"), zero),
    }
    options: ClassVar = {
        **{name: Mixture.options[name] for name in ("experts", "top_k")},
        "depth": Option(1, "linear layers of the head", low=1),
        "size": Option(2048, "its width, from depth 2", low=1),
        "dropout": Option(0.2, "dropout behind its hidden layers", low=0, below=1),
        "softmax": Option(
            ALL, "over all experts, over the top_k, or none: weights of any size", choices=(ALL, TOP, NO)
        ),
        "temperature": Option(1.0, "the softmax's: below 1 it is sharper", above=0),
        "scalings": Option(MODEL, "weights for the whole model, or for each site its own", choices=(MODEL, SITE)),
    }
    kinds: ClassVar = ("linear", "conv1d")
    unmergeable: ClassVar = Mixture.unmergeable
    pools_rows: ClassVar = True
    scalings: Scalings
    place: int

    @classmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, tuple[int, ...]]:
        """A (experts rank x in), B (out x experts rank)."""
        experts = cls.settings_of(options)["experts"]
        return {"A": (experts * rank, site.in_features), "B": (site.out_features, experts * rank)}

    @classmethod
    def shared_shapes(
        cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS
    ) -> dict[str, tuple[int, ...]]:
        """The head's layers: W_in (size x width), W_mid (depth - 2 x size x size), W_out (weights x size, or width), and biases c."""
        settings = cls.settings_of(options)
        depth, size = settings["depth"], settings["size"]
        outputs = settings["experts"] * (len(sites) if settings["scalings"] == SITE else 1)
        width = states_width(sites[0])
        last: dict[str, tuple[int, ...]] = {"W_out": (outputs, width if depth == 1 else size), "c_out": (outputs,)}
        middle = {"W_mid": (depth - 2, size, size), "c_mid": (depth - 2, size)} if depth > 2 else {}
        return {**({"W_in": (size, width), "c_in": (size,)} if depth > 1 else {}), **middle, **last}

    @classmethod
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """A token has no more experts than there are, and a softmax over the top_k needs one."""
        settings = cls.settings_of(options)
        if settings["softmax"] == TOP and not settings["top_k"]:
            return "a softmax over the top_k experts needs top_k"
        return too_few(settings["experts"], settings["top_k"])

    @classmethod
    def wiring(cls, model: nn.Module, adapters: Sequence[Adapter]) -> ScalingPass:
        """The first pass. RecipeError (key ``adapter.method``) for a model whose last states are not those of what the sites see."""
        config: Any = model.config
        if config.is_encoder_decoder:
            what = f"delta '{cls.name}' weighs experts by a token's last state, and in {config.model_type} models the decoder's are last"
            raise RecipeError(what, key="adapter.method", valid="lora_moe with adapter.experts, on this model")
        made = ScalingPass(model, adapters)
        made.check_width()
        return made

    @classmethod
    def weights(
        cls,
        head: Mapping[str, torch.Tensor],
        settings: Mapping[str, Any],
        states: torch.Tensor,
        text: torch.Tensor,
        *,
        training: bool,
    ) -> torch.Tensor:
        """p (rows, tokens, 1 or sites, experts) for states h (rows, tokens, width).

        The head is W_out h + c at depth 1, else W_out f(... f(W_in h + c)) + c, with f: relu, then dropout.
        """
        hidden = [(head["W_in"], head["c_in"])] if "W_in" in head else []
        hidden += zip(head["W_mid"], head["c_mid"], strict=True) if "W_mid" in head else []
        for weight, bias in hidden:
            states = F.dropout(F.relu(F.linear(states, weight, bias)), settings["dropout"], training)
        logits = F.linear(states, head["W_out"], head["c_out"]).unflatten(-1, (-1, settings["experts"]))
        return weights_of(logits, settings["softmax"], settings["temperature"], settings["top_k"])

    def added(self, base: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``base`` in the first pass, else with the sum."""
        return base if self.scalings.first_pass else super().added(base, x, scale)

    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """``sum_e p_e B_e (scale A_e x)``."""
        weights = self.scalings.at(self.place, x).to(self.A.dtype)
        return sum_of_experts(x, self.A, self.B, scale * weights, self.settings["experts"])


def weights_of(logits: torch.Tensor, softmax: str, temperature: float, top_k: int) -> torch.Tensor:
    """The experts' weights (..., experts) from the head's logits (..., experts).

    A softmax of the logits over the temperature, among all experts or the ``top_k`` largest; without one they are the weights. What is not
    among the ``top_k`` is left out, so that of a softmax among all the rest sums to less than 1.
    """
    weights = (logits / temperature).softmax(dim=-1) if softmax == ALL else logits
    if not top_k:
        return weights
    kept = weights.topk(top_k, dim=-1)
    values = (kept.values / temperature).softmax(dim=-1) if softmax == TOP else kept.values
    return torch.zeros_like(weights).scatter(-1, kept.indices, values)


deltas.register(ScaledExperts)
