"""An adapter as PEFT has it: natively where PEFT knows the method, else as the plain LoRA that computes the same.

    LORA         any sum W + s dW with dW = B' A' exactly: alpha = s r', so that PEFT's alpha / r' is s; DoRA's m beside it
    VERA         shared A and B, d and b of each site; the scale goes into b
    IA3          l of each site
    LN_TUNING    the norms' weights and biases

An update that starts away from zero, s (B A - B0 A0), is the LoRA [B, -B0] [A; A0] of twice the rank; factors that are wider than
the matrix itself are multiplied out: r' = min(in, out) is enough for any dW.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.delta import Delta
from lorakit.adapters.deltas.rescaling import RESCALES_INPUT, Rescaling
from lorakit.adapters.deltas.shared_vectors import SharedVectors
from lorakit.artifacts.adapter_file import PEFT_CONFIG, PEFT_TENSORS, save_tensors
from lorakit.artifacts.channel_cut import channel_cuts
from lorakit.artifacts.files import write_json
from lorakit.artifacts.peft.layout import (
    LABELS,
    MAGNITUDE,
    PREFIX,
    common_config,
    in_peft,
    linear_sites,
    lora_config,
    lora_site,
    peft_name,
)
from lorakit.backbone.trained_head import Outputs
from lorakit.errors import RunError

Tensors = dict[str, torch.Tensor]
NORM = "norm"
PLAIN = "lorakit merge writes a plain checkpoint instead"
AS_IT_IS = "lorakit.load and lorakit serve read the run as it is"


@dataclass(frozen=True)
class PeftForm:
    """adapter_config.json and adapter_model.safetensors.

    ranks: site -> rank in this form, 0 where there is none; labels: the head's outputs, which PEFT itself does not tell.
    """

    config: dict[str, Any]
    tensors: Tensors
    ranks: dict[str, int]
    labels: tuple[str, ...]

    @property
    def kind(self) -> str:
        """PEFT's name of the method."""
        return "DoRA" if self.config.get("use_dora") else str(self.config["peft_type"])

    def write(self, target: Path) -> None:
        """Both files, into an existing folder."""
        write_json(target / PEFT_CONFIG, self.config)
        # factors that sites share, or a delta's two sides of one tensor, are separate tensors in PEFT
        copies = {name: tensor.clone() for name, tensor in self.tensors.items()}
        save_tensors(copies, target / PEFT_TENSORS, {LABELS: json.dumps(self.labels)})


@torch.no_grad()
def peft_form(adapted: AdaptedModel) -> PeftForm:
    """The adapter's form in PEFT. Raises RunError that names what PEFT cannot express."""
    if cuts := channel_cuts(adapted):
        gone = " and ".join(f"{cut.before - cut.after} of {cut.before} {cut.kind}" for cut in cuts)
        what = f"PEFT cannot express that {gone} of every layer are gone: it adapts a model as large as it is"
        raise RunError(what, hint="lorakit merge cuts them out, and writes a plain checkpoint")
    adapters = linear_sites(adapted)
    shortcuts = [adapter.site.name for adapter in adapted.live_shortcuts]
    if shortcuts:
        what = "they are shortcuts beside the model's modules, and PEFT adapts modules"
        raise refusal(shortcuts, what, "lorakit merge keeps them beside the checkpoint, for lorakit to load")
    if not adapters:
        raise RunError("no site is in the function: there is no adapter to write", hint="lorakit merge writes the head")
    if all(type(a.delta) is SharedVectors for a in adapters) and len({a.rank for a in adapters}) == 1:
        config, tensors = vera_form(adapted, adapters)
    elif all(type(a.delta) is Rescaling for a in adapters):
        config, tensors = ia3_form(adapted, adapters)
    elif all(a.delta.replaces_parameters and a.site.role == NORM for a in adapters):
        config, tensors = norms_form(adapted, adapters)
    else:
        config, tensors = lora_form(adapted, adapters)
    parameters = dict(adapted.model.named_parameters())
    tensors |= {PREFIX + name: parameters[name].detach() for name in adapted.new_parts}
    ranks: dict[str, int] = config.get("rank_pattern") or {a.site.name: config.get("r", 0) for a in adapters}
    return PeftForm(config, tensors, ranks, Outputs.of(adapted.backbone.model.config).names)


def refusal(sites: Sequence[str], reason: str, hint: str) -> RunError:
    """Why these sites cannot be expressed, and what can be done."""
    several = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
    return RunError(f"PEFT cannot express {sites[0]}{several}: {reason}", hint=hint)


def lora_form(adapted: AdaptedModel, adapters: Sequence[Adapter]) -> tuple[dict[str, Any], Tensors]:
    """Every site as LoRA, with its own tensors where they are LoRA's, else by its factors."""
    inexpressible = {a.site.name: why for a in adapters if (why := no_lora(a))}
    if inexpressible:
        merges = not any(adapter.delta.unmergeable for adapter in adapters)
        raise refusal(list(inexpressible), next(iter(inexpressible.values())), PLAIN if merges else AS_IT_IS)
    tensors: Tensors = {}
    sites = []
    for adapter in adapters:
        prefix = f"{PREFIX}{adapter.site.name}."
        if in_peft(adapter):
            sites.append(lora_site(adapter, adapter.units.live, adapter.scale * adapter.units.live))
            tensors |= {
                prefix + peft_name(adapter, name): adapter.units.live_part(name, tensor.detach())
                for name, tensor, _ in adapter.tensors()
            }
            continue
        factors = adapter.delta.factors()
        assert factors is not None
        b, a = thin(*factors)
        sites.append(lora_site(adapter, a.shape[0], adapter.scale * a.shape[0]))
        tensors |= {prefix + "lora_A.weight": a, prefix + "lora_B.weight": b}
        if sites[-1].dora:
            tensors[prefix + MAGNITUDE] = adapter.magnitude
    return lora_config(adapted, sites), tensors


def no_lora(adapter: Adapter) -> str:
    """Why the site is not a LoRA, empty where it is."""
    delta, name = adapter.delta, adapter.spec.delta
    if adapter.base is None:
        return f"'{name}' is not on a module of the model"
    if delta.replaces_parameters or not adapter.on_weight:
        return "the module's own parameters are trained, norms apart"
    if delta.unmergeable:
        return f"delta '{name}' is no fixed update of the weight: {delta.unmergeable}"
    if not delta.additive:
        return f"delta '{name}' rewrites the weight, it adds no B A to it"
    if adapter.own_base:
        return "its weight was rounded for the run, and PEFT would add B A to another one"
    if isinstance(delta, Delta) and type(delta).effective_bias is not Delta.effective_bias:
        return f"delta '{name}' moves the bias too"
    return "" if delta.factors() is not None else f"delta '{name}' is not of low rank"


def thin(b: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product through no more than min(in, out) numbers, without those that are zero: rank units that a search has closed."""
    used = (b.any(dim=0) & a.any(dim=1)).nonzero().flatten()
    if 0 < len(used) < a.shape[0]:
        b, a = b[:, used], a[used]
    if a.shape[0] <= min(b.shape[0], a.shape[1]):
        return b, a
    dense = (b.double() @ a.double()).to(b.dtype)
    if b.shape[0] < a.shape[1]:
        return torch.eye(b.shape[0], dtype=b.dtype, device=b.device), dense
    return dense, torch.eye(a.shape[1], dtype=a.dtype, device=a.device)


def vera_form(adapted: AdaptedModel, adapters: Sequence[Adapter]) -> tuple[dict[str, Any], Tensors]:
    """VeRA: the shared matrices as wide and tall as the sites that are in the function need them."""
    sites = [adapter.site for adapter in adapters]
    shared = adapters[0].delta.shared
    assert shared is not None
    tensors: Tensors = {
        "base_model.vera_A": shared.get_parameter("A")[: adapters[0].rank, : max(site.in_features for site in sites)],
        "base_model.vera_B": shared.get_parameter("B")[: max(site.out_features for site in sites), : adapters[0].rank],
    }
    for adapter in adapters:
        own = {name: tensor for name, tensor, _ in adapter.tensors()}
        prefix = f"{PREFIX}{adapter.site.name}."
        tensors |= {prefix + "vera_lambda_b": own["b"] * adapter.scale, prefix + "vera_lambda_d": own["d"]}
    config = common_config(adapted, "VERA", names(adapters)) | {
        "r": adapters[0].rank,
        "vera_dropout": adapters[0].spec.dropout,
        "fan_in_fan_out": sites[0].kind == "conv1d",
        "projection_prng_key": 0,
        "save_projection": True,
        "bias": "none",
    }
    return config, tensors


def ia3_form(adapted: AdaptedModel, adapters: Sequence[Adapter]) -> tuple[dict[str, Any], Tensors]:
    """(IA)3: a column (out x 1) where outputs are rescaled, a row (1 x in) where inputs are."""
    inputs = [a for a in adapters if a.site.role in RESCALES_INPUT]
    tensors = {
        f"{PREFIX}{a.site.name}.ia3_l": a.delta.get_parameter("l").reshape((1, -1) if a in inputs else (-1, 1))
        for a in adapters
    }
    config = common_config(adapted, "IA3", names(adapters)) | {
        "feedforward_modules": list(names(inputs)),
        "fan_in_fan_out": adapters[0].site.kind == "conv1d",
    }
    return config, tensors


def norms_form(adapted: AdaptedModel, adapters: Sequence[Adapter]) -> tuple[dict[str, Any], Tensors]:
    """LayerNorm tuning."""
    tensors: Tensors = {
        f"{PREFIX}{adapter.site.name}.ln_tuning_layers.{name}": tensor
        for adapter in adapters
        for name, tensor, _ in adapter.tensors()
    }
    return common_config(adapted, "LN_TUNING", names(adapters)), tensors


def names(adapters: Sequence[Adapter]) -> Iterator[str]:
    """The sites' names."""
    return (adapter.site.name for adapter in adapters)
