"""Folding adapters into the weights, and what is kept beside them where a plain checkpoint cannot hold it.

config.json, model.safetensors, tokenizer files       a plain Hugging Face checkpoint
lorakit.json                                          where it came from, the proof, and the shortcuts' sites if any
lorakit_model.safetensors                             the shortcuts' tensors, where there are any

Where the checkpoint alone would answer otherwise, as with shortcuts, it is closed to other loaders (``backbone.adapted_folder``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.attach import attach
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import DROPPED
from lorakit.artifacts.adapter_file import OUR_TENSORS, OURS, copy_in, read_tensors, save_tensors
from lorakit.artifacts.adapter_record import check_axes, check_sites
from lorakit.artifacts.calibration_file import temperature_in
from lorakit.artifacts.later import Later
from lorakit.artifacts.records import number, read_record, reading
from lorakit.backbone.adapted_folder import VARIANT, close_to_others
from lorakit.backbone.dense_again import empty, make_dense
from lorakit.backbone.heap import trim
from lorakit.backbone.load import Backbone, quiet_transformers
from lorakit.backbone.quantised import QuantisedLinear
from lorakit.errors import RunError
from lorakit.recipe.keys import recipe_keys
from lorakit.recipe.moved import said_now
from lorakit.recipe.schema import SHORTCUTS

SHARD = "500MB"
"""The largest file of weights: so much of a merged model is in memory when it is written."""
NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


@torch.no_grad()
def fold(adapted: AdaptedModel) -> int:
    """Write W' into every adapted weight and take the adapters away; the number of sites folded.

    Sums are made in float64 and rounded once. What can go into zero points of quantised weights does; then these are made dense, and
    stay so. Shortcuts stay as they are.
    Raises RunError where an adapter cannot be folded.
    """
    check_own_weights(adapted)
    folded = fold_into_zero_points(adapted)
    make_dense(adapted.model)
    for shared in adapted.shared.values():
        shared.double()
    live = take_off(adapted)
    for adapter in live:
        adapter.fold()
    return folded + len(live)


def fold_into_zero_points(adapted: AdaptedModel) -> int:
    """Fold what quantised weights can take as they are; the number of sites."""
    return sum(adapter.fold_into_zero_points() for adapter in adapted.adapters.values() if adapter.state != DROPPED)


def take_off(adapted: AdaptedModel) -> list[Adapter]:
    """Take the adapters, but shortcuts, off their modules; those of them that are a part of the function."""
    own = [adapter for adapter in adapted.adapters.values() if not adapter.site.is_shortcut]
    for adapter in own:
        if adapter.base is not None:
            delattr(adapter.base, next(name for name, child in adapter.base.named_children() if child is adapter))
    return [adapter for adapter in own if adapter.state != DROPPED]


@torch.no_grad()
def fold_later(adapted: AdaptedModel) -> tuple[int, dict[str, torch.Tensor]]:
    """What ``fold`` writes, of each weight when it is asked for: the number of sites, and name -> tensor of what is not as it was.

    The model computes nothing any more: it has lost its adapters, and weights that were quantised are empty.
    """
    check_own_weights(adapted)
    rounded = fold_into_zero_points(adapted)
    for shared in adapted.shared.values():
        shared.double()
    live, tensors = take_off(adapted), dict[str, torch.Tensor]()
    for adapter in live:
        if adapter.delta.replaces_parameters or not adapter.on_weight:
            adapter.fold()
        adapter.switch(DROPPED)
    for name, module in adapted.model.named_modules():
        own = [adapter for adapter in live if adapter.base is module and adapter.on_weight]
        own = [adapter for adapter in own if not adapter.delta.replaces_parameters]
        if own or isinstance(module, QuantisedLinear):
            folded = Folded(module, own)
            tensors |= {
                f"{name}.{key}": Later.of(like, partial(folded.take, key)) for key, like in folded.likes.items()
            }
    return rounded + len(live), tensors


class Folded:
    """W' and b' of a module with these adapters, none for a quantised one that is to be made dense."""

    def __init__(self, module: nn.Module, adapters: list[Adapter]):
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        self.dense = empty(module) if isinstance(module, QuantisedLinear) else lambda: weight
        self.turned = bool(adapters) and adapters[0].site.kind == "conv1d"
        self.adapters = adapters
        self.likes: dict[str, torch.Tensor] = {"weight": module.weight}  # type: ignore[dict-item]
        self.bias: torch.Tensor | None = getattr(module, "bias", None)
        if adapters and self.bias is not None:
            self.likes["bias"] = self.bias
        self.ready: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def take(self, key: str) -> torch.Tensor:
        """One of them, contiguous, rounded once; both are computed, and the other is kept until it is taken."""
        if key not in self.ready:
            trim()  # of what the weight before was computed with
            weight, bias = self.dense(), self.bias
            weight = weight.T if self.turned else weight
            for adapter in self.adapters:
                weight, bias = adapter.folded_into(weight, bias)
            found = {"weight": weight.T if self.turned else weight, "bias": bias}
            self.ready = {
                name: found[name].to(like.dtype).contiguous()  # type: ignore[union-attr]
                for name, like in self.likes.items()
            }
        return self.ready.pop(key)


def check_foldable(adapted: AdaptedModel) -> None:
    """Refuse what no weight can hold before anything is computed. A shortcut is kept beside the checkpoint instead."""
    for name, adapter in adapted.adapters.items():
        lost = adapter.state != DROPPED or adapter.base is None  # off, but still a part of the model
        if not adapter.site.is_shortcut and adapter.delta.unmergeable and lost:
            raise RunError(
                f"cannot be merged: {adapter.delta.unmergeable}",
                where=name,
                hint="lorakit.load reads the run as it is",
            )
    check_own_weights(adapted)


def check_own_weights(adapted: AdaptedModel) -> None:
    """Refuse updates of a weight that several modules have, as where one block is repeated (Zamba): all would get it."""
    owners: dict[nn.Parameter, dict[str, nn.Module]] = {}
    ours = {module for adapter in adapted.adapters.values() for module in adapter.modules()}
    for path, module in adapted.model.named_modules():
        for parameter in module.parameters(recurse=False) if module not in ours else ():
            owners.setdefault(parameter, {})[path] = module
    for name, adapter in adapted.adapters.items():
        if adapter.base is None or adapter.state == DROPPED:
            continue
        own = adapter.base.parameters(recurse=False)
        others = [
            path
            for parameter in own
            for path, module in owners.get(parameter, {}).items()
            if module is not adapter.base
        ]
        if others:
            raise RunError(
                f"cannot be merged: {name} and {others[0]} are one weight of the model, and an update of one would be the "
                "other's too",
                where=name,
                hint="lorakit.load reads the run as it is, and lorakit export writes an adapter of it",
            )


def save_merged(
    adapted: AdaptedModel,
    folder: Path,
    kept: list[Adapter],
    length: int,
    *,
    closed: bool,
    folded: Mapping[str, torch.Tensor] = NOTHING,
) -> None:
    """Write the folded model, its tokenizer and the kept shortcuts' tensors into an existing folder, a shard at a time.

    folded: tensors in place of the model's own (``fold_later``); length: tokens of a text that the run reads, which truncation keeps
    then in transformers too; closed: whether no plain loader may load it.
    """
    model: Any = adapted.model
    tokenizer = copy.copy(adapted.backbone.tokenizer)
    tokenizer.model_max_length = min(length, tokenizer.model_max_length)
    plain = {
        name: folded.get(name, tensor)
        for name, tensor in model.state_dict().items()
        if ".shortcuts." not in name and not name.startswith(("shortcuts.", "shared."))
    }
    with quiet_transformers():
        variant = VARIANT if closed else None
        model.save_pretrained(folder, state_dict=plain, variant=variant, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
    if closed:
        close_to_others(folder)
    if kept:
        state = adapted.tensors()
        save_tensors({name: state[name] for name in kept_names(kept)}, folder / OUR_TENSORS)


def kept_names(kept: list[Adapter]) -> list[str]:
    """The names of the kept shortcuts' tensors, in ``AdaptedModel.tensors`` and on disk alike."""
    return [f"{adapter.site.name}.{name}" for adapter in kept for name, _, _ in adapter.tensors()]


def shortcut_record(adapters: list[Adapter], norm: str) -> dict[str, Any]:
    """What ``restore_shortcuts`` needs to wire the kept shortcuts again."""
    return {
        "norm": norm,
        "sites": [
            {
                "name": a.site.name,
                "rank": a.rank,
                "scale": a.scale,
                "state": a.state,
                "role": a.site.role,
                "axes": vars(a.spec),
            }
            for a in adapters
        ],
    }


def restore_shortcuts(backbone: Backbone, folder: Path) -> AdaptedModel:
    """The merged model of ``folder`` with its kept shortcuts wired in (``backbone`` is that folder, loaded)."""
    record = read_merged(folder)["shortcuts"]
    if record is None:
        return AdaptedModel(backbone, {}, None)
    entries = {entry["name"]: entry for entry in record["sites"]}
    roles = sorted({entry["role"] for entry in entries.values()})
    sites = [site for site in backbone.anatomy.shortcuts(roles) if site.name in entries]
    if len(sites) != len(entries):
        raise RunError("the shortcuts in lorakit.json do not fit this model", where=str(folder))
    spec = AdapterSpec(**record["sites"][0]["axes"])
    ranks = {name: entry["rank"] for name, entry in entries.items()}
    adapted = attach(backbone, sites, spec, spec, norm=record["norm"], ranks=ranks)
    adapted.restore({name: entry["state"] for name, entry in entries.items()})
    for name, entry in entries.items():
        adapted.adapters[name].scale = entry.get("scale", adapted.adapters[name].scale)
    names = kept_names(list(adapted.adapters.values()))
    copy_in(adapted, read_tensors(folder / OUR_TENSORS), dict(zip(names, names, strict=True)), folder)
    return adapted


def read_merged(folder: Path) -> dict[str, Any]:
    """lorakit.json of a merged folder: max_length, pair, shortcuts and int4_group or None, maybe a temperature. RunError for another."""
    path, what = folder / OURS, "the record of a merged model"
    record = read_record(path, what)
    with reading(path, what):
        number(record["max_length"], "max_length", low=1, whole=True)
        if "pooling" in record:  # of an older lorakit
            _, record["readout"] = said_now("model.pooling", record.pop("pooling")) or ("", "")
        for key in ("task.long", "task.window_pooling", "model.readout"):
            name = key.partition(".")[2]
            if record.setdefault(name, recipe_keys()[key].default) not in recipe_keys()[key].choices:
                raise ValueError(f"there is no {name} {record[name]!r}")
        if not isinstance(record["pair"], bool):
            raise ValueError("pair is neither true nor false")
        temperature_in(record)
        shortcuts = record.setdefault("shortcuts", None)
        if record.setdefault("int4_group", None) is not None:
            number(record["int4_group"], "int4_group", low=2, whole=True)
        if shortcuts is not None:
            check_sites(shortcuts["sites"])
            if not shortcuts["sites"] or shortcuts["norm"] not in recipe_keys()["adapter.shortcut_norm"].choices:
                raise ValueError("shortcuts have sites, and a norm that a recipe may have")
            for site in shortcuts["sites"]:
                check_axes(site["axes"])
                number(site["rank"], "rank", low=1, whole=True)
                if site["role"] not in SHORTCUTS:
                    raise ValueError(f"there is no shortcut {site['role']!r}")
    return record
