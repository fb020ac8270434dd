"""Adapters on disk: in PEFT's form as far as PEFT can express them, the rest beside it.

    adapter_config.json, adapter_model.safetensors    all sites and the trained head, as PEFT reads them
    lorakit.json                                      what PEFT does not know: the axes, every site's state
    lorakit_model.safetensors                         instead of PEFT's two files, where it cannot express all that is in the function

In the latter case lorakit.json says ``"form": "lorakit"``, or ``"ternary"`` where the tensors are coded (``ternary_file``); `lorakit
export` still writes what has an equivalent in PEFT. Earlier versions put shortcuts beside PEFT's files, which PEFT loaded without them.
Only what is in the function is written: sites that are dropped are not, what sites share is while any of its users is in.
All tensors are safetensors; nothing is ever pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lorakit.adapters.adapted_model import SHARED, AdaptedModel
from lorakit.artifacts.adapter_record import check_sites
from lorakit.artifacts.fault_points import FaultPoint
from lorakit.artifacts.files import folder, read_json, write_json
from lorakit.artifacts.peft.layout import PREFIX, all_in_peft, is_native, native_config, peft_name
from lorakit.artifacts.records import number, read_record, reading
from lorakit.backbone.trained_head import Outputs
from lorakit.errors import RunError

PEFT_CONFIG, PEFT_TENSORS = "adapter_config.json", "adapter_model.safetensors"
OURS, OUR_TENSORS = "lorakit.json", "lorakit_model.safetensors"
FORMAT, TERNARY_FORMAT = 2, 3


def save_adapter(adapted: AdaptedModel, path: Path) -> None:
    """Write the adapter and the head into the folder ``path``, whole or not at all."""
    with folder(path) as target:
        write_adapter(adapted, target)


def write_adapter(adapted: AdaptedModel, target: Path) -> None:
    """Write the adapter's files into an existing folder."""
    state = packed_state(adapted)
    for file, names in file_names(adapted, is_native(adapted)).items():
        with FaultPoint("adapter's tensors"):
            save_tensors({name: state[key] for key, name in names.items()}, target / file)
    if is_native(adapted):
        write_json(target / PEFT_CONFIG, native_config(adapted))
    write_json(target / OURS, description(adapted))


def packed_state(adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    """``AdaptedModel.tensors``, of each site its live rank units alone."""
    state = adapted.tensors()
    for site, adapter in adapted.adapters.items():
        for name, _, _ in adapter.tensors():
            state[f"{site}.{name}"] = adapter.units.live_part(name, state[f"{site}.{name}"])
    return state


def save_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write contiguous CPU copies. Raises OSError where the disk does not take them."""
    try:
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(copies, path, {"format": "pt", **metadata})
    except SafetensorError as error:
        raise OSError(str(error)) from None


def load_adapter(adapted: AdaptedModel, path: Path) -> None:
    """Put values and states from ``path`` into a model built from the same recipe. RunError where they do not fit."""
    told = put_states(adapted, path)
    native = told.get("form", "peft") == "peft" and all_in_peft(adapted)
    for file, names in file_names(adapted, native).items():
        tensors = read_tensors(path / file)
        if foreign := sorted(set(tensors) - set(names.values())):
            raise RunError(f"tensor {foreign[0]} has no place in this model", where=str(path / file))
        copy_in(adapted, tensors, names, path)


def load_sites(adapted: AdaptedModel, path: Path) -> None:
    """``load_adapter`` without the head, which stays as it is."""
    told = put_states(adapted, path)
    native = told.get("form", "peft") == "peft" and all_in_peft(adapted)
    for file, names in file_names(adapted, native).items():
        own = {key: name for key, name in names.items() if key not in adapted.new_parts}
        copy_in(adapted, read_tensors(path / file), own, path)


def load_head(adapted: AdaptedModel, path: Path) -> None:
    """Put the head of the adapter in the folder ``path`` into the model. RunError where it has another shape, or is not there."""
    copy_in(adapted, read_head(adapted, path), {part: part for part in adapted.new_parts}, path)


def read_head(adapted: AdaptedModel, path: Path) -> dict[str, torch.Tensor]:
    """Part -> tensor of the head in the folder ``path``, for the parts that the model's own has. RunError where one is missing."""
    files = [path / file for file in (PEFT_TENSORS, OUR_TENSORS) if (path / file).is_file()]
    tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
    names = {part: PREFIX + part if PREFIX + part in tensors else part for part in adapted.new_parts}
    if missing := [name for name in names.values() if name not in tensors]:
        raise RunError(f"tensor {missing[0]} is missing", where=str(path))
    return {part: tensors[name] for part, name in names.items()}


def put_states(adapted: AdaptedModel, path: Path) -> dict[str, Any]:
    """Put the states, live rank units and scales that lorakit.json in ``path`` tells into the model; all that it tells.

    RunError where they are not this model's.
    """
    states = site_states(path)
    if set(states) != set(adapted.adapters):
        raise RunError("the adapter's sites are not those of this model", where=str(path))
    put_units(adapted, path)
    adapted.restore(states)
    told = told_adapter(path)
    if told.get("base", "") != adapted.base_digest:
        what = "the adapter belongs to quantised weights of its own run, and the model's are others"
        raise RunError(what, where=str(path / OURS), hint="the run that it was trained in, whole")
    return told


@torch.no_grad()
def copy_in(adapted: AdaptedModel, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str], path: Path) -> None:
    """Copy the tensors of a file into the model; names: key in ``AdaptedModel.tensors`` -> name in the file, each must be there."""
    owners = {f"{site}.{name}": (a, name) for site, a in adapted.adapters.items() for name, _, _ in a.tensors()}
    own, packed = adapted.tensors(), packed_state(adapted)
    for key, name in names.items():
        if name not in tensors:
            raise RunError(f"tensor {name} is missing", where=str(path))
        if tensors[name].shape != packed[key].shape:
            shapes = f"{list(tensors[name].shape)}, not {list(packed[key].shape)}"
            raise RunError(f"tensor {name} has shape {shapes}", where=str(path))
        if tensors[name].dtype != own[key].dtype:
            raise RunError(f"tensor {name} is of {tensors[name].dtype}, not {own[key].dtype}", where=str(path))
        site, tensor = owners.get(key, (None, ""))
        own[key].copy_(tensors[name] if site is None else site.units.whole(tensor, tensors[name]))


def site_states(path: Path) -> dict[str, str]:
    """Site name -> state as lorakit.json in the folder ``path`` tells them; RunError where it does not."""
    return {site["name"]: site["state"] for site in told_sites(path)}


def told_sites(path: Path) -> list[dict[str, Any]]:
    """What lorakit.json in the folder ``path`` tells of every site, name and state at least; RunError where it does not."""
    sites: list[dict[str, Any]] = told_adapter(path)["sites"]
    return sites


def told_adapter(path: Path) -> dict[str, Any]:
    """lorakit.json in the folder ``path``; RunError where it does not describe an adapter, or one that a later lorakit wrote."""
    what = "the description of an adapter"
    told = read_record(path / OURS, what)
    with reading(path / OURS, what):
        check_sites(told["sites"])
        if number(told.get("format", FORMAT), "format", whole=True) > TERNARY_FORMAT:
            raise ValueError(f"it has format {told['format']}, and this lorakit knows those up to {TERNARY_FORMAT}")
    return told


def put_units(adapted: AdaptedModel, path: Path) -> None:
    """Give every site the live rank units, and the scale, that lorakit.json in ``path`` names; RunError where it cannot have them."""
    told = {site["name"]: site for site in told_sites(path)}
    record = {
        name: {"live": site["units"], "cut": False} for name, site in told.items() if site.get("units") is not None
    }
    for name, units in record.items():
        adapter = adapted.adapters[name]
        ranks = range(adapter.rank if adapter.units.divisible else 0)
        if not all(unit in ranks for unit in units["live"]):
            raise RunError(
                f"{name} has no rank units {units['live']}", where=str(path / OURS), valid=f"0 to {len(ranks) - 1}"
            )
    adapted.restore_units(record)
    for name, adapter in adapted.adapters.items():
        adapter.scale = told[name].get("scale", adapter.scale)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; RunError where it is missing or damaged, or holds what is no number."""
    if not path.is_file():
        raise RunError(f"{path.name} is missing", where=str(path.parent))
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"cannot be read: {error}", where=str(path)) from None
    if broken := [name for name, tensor in tensors.items() if not is_finite(tensor)]:
        raise RunError(
            f"tensor {broken[0]} is not finite: the training diverged", where=str(path), hint="a lower learning rate"
        )
    return tensors


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether every entry is a number, also of the kinds that torch cannot ask."""
    asked = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    return bool(asked.isfinite().all())


def file_names(adapted: AdaptedModel, native: bool) -> dict[str, dict[str, str]]:
    """File -> key in ``AdaptedModel.tensors`` -> name in the file, for the tensors that are written; native: in PEFT's form."""
    live = {name: adapter for name, adapter in adapted.adapters.items() if name in set(adapted.in_function)}
    ours = {
        key: key
        for group, shared in adapted.shared.items()
        if not set(adapted.sites_sharing(group)).isdisjoint(live)
        for key in (f"{SHARED}.{group}.{name}" for name, _, _ in shared.tensors())
    }
    theirs = {}
    for site, adapter in live.items():
        for name, _, _ in adapter.tensors():
            key = f"{site}.{name}"
            if native and not adapter.site.is_shortcut:
                theirs[key] = f"{PREFIX}{site}.{peft_name(adapter, name)}"
            else:
                ours[key] = key
    if native:
        theirs |= {name: PREFIX + name for name in adapted.new_parts}
    else:
        ours |= {name: name for name in adapted.new_parts}
    return {file: names for file, names in ((PEFT_TENSORS, theirs), (OUR_TENSORS, ours)) if names}


def description(adapted: AdaptedModel) -> dict[str, Any]:
    """lorakit.json: every site with its rank, scale, state and axes."""
    sites = [
        {
            "name": name,
            "layer": adapter.site.layer,
            "role": adapter.site.role,
            "kind": adapter.site.kind,
            "rank": adapter.units.live if adapter.units.divisible else adapter.rank,
            "units": None if adapter.units.mask.all() else adapter.units.mask.nonzero().flatten().tolist(),
            "full_rank": adapter.rank,
            "scale": adapter.scale,
            "state": adapter.state,
            "parameters": adapted.adapter_parameters([name]),
            "axes": asdict(adapter.spec),
        }
        for name, adapter in adapted.adapters.items()
    ]
    return {
        "format": FORMAT,
        "form": "peft" if is_native(adapted) else "lorakit",
        "model": adapted.backbone.name,
        **({"base": adapted.base_digest} if adapted.base_digest else {}),
        "sites": sites,
        "new_parts": adapted.new_parts,
        "labels": Outputs.of(getattr(adapted.model, "config", None)).names,
        "adapter_parameters": adapted.adapter_parameters(),
        "head_parameters": adapted.head_parameters(),
    }


def check_saved(adapted: AdaptedModel, path: Path) -> None:
    """RunError unless the adapter in the folder ``path`` has every tensor of ``adapted``, the head's too, its ranks and parameters."""
    state, missing = packed_state(adapted), set(adapted.new_parts)
    for file, names in file_names(adapted, is_native(adapted)).items():
        saved = read_tensors(path / file)
        for key, name in names.items():
            if name not in saved or not torch.equal(saved[name], state[key].detach().cpu()):
                raise RunError(f"tensor {name} was not saved as it was trained", where=str(path / file))
        missing -= set(names)
    if missing:
        raise RunError(f"the trained head was not saved: {', '.join(sorted(missing))}", where=str(path))
    told = read_json(path / OURS)
    live = {name: a.units.live if a.units.divisible else a.rank for name, a in adapted.adapters.items()}
    if {site["name"]: site["rank"] for site in told["sites"]} != live:
        raise RunError("the ranks that were saved are not those that were trained", where=str(path / OURS))
    counted = adapted.adapter_parameters(), adapted.head_parameters()
    if (told["adapter_parameters"], told["head_parameters"]) != counted:
        raise RunError("the parameters that were saved are not those that were trained", where=str(path / OURS))
