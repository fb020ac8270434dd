"""Adapters on disk: in PEFT's form as far as PEFT can express them, the rest beside it.

    adapter_config.json, adapter_model.safetensors    linear sites and the trained head, as PEFT reads them
    lorakit.json, lorakit_model.safetensors           what PEFT does not know: the axes, every site's state, shortcuts

Only sites that are in the function are written. All tensors are float32 safetensors; nothing is ever pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lorakit.adapters.adapter import DROPPED, Adapter
from lorakit.adapters.attach import AdaptedModel
from lorakit.artifacts.files import folder, read_json, write_json
from lorakit.errors import RunError

PEFT_PREFIX = "base_model.model."
FORMAT = 1


def save_adapter(adapted: AdaptedModel, path: Path) -> None:
    """Write the adapter and the head into the folder ``path``, whole or not at all."""
    with folder(path) as target:
        write_adapter(adapted, target)


def write_adapter(adapted: AdaptedModel, target: Path) -> None:
    """Write the adapter's files into an existing folder."""
    live = {name: adapter for name, adapter in adapted.adapters.items() if adapter.state != DROPPED}
    state = adapted.state()
    names = file_names(adapted)
    peft = {names[key]: tensor for key, tensor in state.items() if key in names and names[key].startswith(PEFT_PREFIX)}
    ours = {
        names[key]: tensor for key, tensor in state.items() if key in names and not names[key].startswith(PEFT_PREFIX)
    }
    save_tensors(peft, target / "adapter_model.safetensors")
    if ours:
        save_tensors(ours, target / "lorakit_model.safetensors")
    write_json(target / "adapter_config.json", peft_config(adapted, [a for a in live.values() if in_peft(a)]))
    write_json(target / "lorakit.json", description(adapted))


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write contiguous CPU copies."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def load_adapter(adapted: AdaptedModel, path: Path) -> None:
    """Put values and states from ``path`` into a model built from the same recipe. RunError where they do not fit."""
    states = site_states(path)
    if set(states) != set(adapted.adapters):
        raise RunError("the adapter's sites are not those of this model", where=str(path))
    adapted.restore(states)
    tensors = read_tensors(path / "adapter_model.safetensors")
    if (path / "lorakit_model.safetensors").exists():
        tensors |= read_tensors(path / "lorakit_model.safetensors")
    copy_in(adapted, tensors, file_names(adapted), path)


@torch.no_grad()
def copy_in(adapted: AdaptedModel, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str], path: Path) -> None:
    """Copy the tensors of a file into the model; names: key in ``AdaptedModel.state`` -> name in the file, each must be there."""
    own = adapted.state()
    for key, name in names.items():
        if name not in tensors:
            raise RunError(f"tensor {name} is missing", where=str(path))
        if tensors[name].shape != own[key].shape:
            shapes = f"{list(tensors[name].shape)}, not {list(own[key].shape)}"
            raise RunError(f"tensor {name} has shape {shapes}", where=str(path))
        own[key].copy_(tensors[name])


def site_states(path: Path) -> dict[str, str]:
    """Site name -> state as lorakit.json in the folder ``path`` tells them; RunError where it does not."""
    told = read_json(path / "lorakit.json")
    try:
        return {site["name"]: site["state"] for site in told["sites"]}
    except (KeyError, TypeError):
        raise RunError("does not describe an adapter", where=str(path / "lorakit.json")) from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; RunError where it is missing or damaged."""
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot be read: {error}", where=str(path)) from None
    return tensors


def file_names(adapted: AdaptedModel) -> dict[str, str]:
    """Key in ``AdaptedModel.state`` -> name on disk, for the tensors that are written."""
    names = {name: PEFT_PREFIX + name for name in adapted.new_parts}
    for site, adapter in adapted.adapters.items():
        if adapter.state == DROPPED:
            continue
        for tensor, _, _ in adapter.tensors():
            key = f"{site}.{tensor}"
            names[key] = f"{PEFT_PREFIX}{site}.{peft_name(adapter, tensor)}" if in_peft(adapter) else key
    return names


def peft_name(adapter: Adapter, tensor: str) -> str:
    """What PEFT calls this tensor of a site it can express."""
    return "lora_magnitude_vector" if tensor == "magnitude" else adapter.delta.peft_names[tensor]


def in_peft(adapter: Adapter) -> bool:
    """Whether PEFT has such an adapter: a known parametrisation on a weight of the model."""
    return adapter.base is not None and bool(adapter.delta.peft_names)


def peft_config(adapted: AdaptedModel, adapters: list[Adapter]) -> dict[str, Any]:
    """adapter_config.json: plain LoRA with full module paths, ranks and alphas a module (off modules are left out)."""
    prefix = adapted.backbone.model.base_model_prefix + "."
    heads = sorted(
        {name.rpartition(".")[0] if name.startswith(prefix) else name.split(".")[0] for name in adapted.new_parts}
    )
    first = adapters[0] if adapters else None
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": adapted.backbone.name,
        "inference_mode": True,
        "r": first.rank if first else 1,
        "lora_alpha": first.scale * first.rank if first else 1,
        "lora_dropout": first.spec.dropout if first else 0.0,
        "use_dora": bool(first and first.spec.decomposition == "magnitude"),
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": bool(first and first.site.kind == "conv1d"),
        "target_modules": [adapter.site.name for adapter in adapters],
        "rank_pattern": {adapter.site.name: adapter.rank for adapter in adapters},
        "alpha_pattern": {adapter.site.name: adapter.scale * adapter.rank for adapter in adapters},
        "modules_to_save": heads,
    }


def description(adapted: AdaptedModel) -> dict[str, Any]:
    """lorakit.json: every site with its rank, scale, state and axes."""
    sites = [
        {
            "name": name,
            "layer": adapter.site.layer,
            "role": adapter.site.role,
            "kind": adapter.site.kind,
            "rank": adapter.rank,
            "scale": adapter.scale,
            "state": adapter.state,
            "parameters": adapted.adapter_parameters([name]),
            "axes": asdict(adapter.spec),
        }
        for name, adapter in adapted.adapters.items()
    ]
    return {
        "format": FORMAT,
        "model": adapted.backbone.name,
        "sites": sites,
        "new_parts": adapted.new_parts,
        "adapter_parameters": adapted.adapter_parameters(),
        "head_parameters": adapted.head_parameters(),
    }
