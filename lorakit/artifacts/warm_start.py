"""Starting from a trained adapter (recipe: adapter.start), as Hu et al. 2021 (appendix D) start MRPC, RTE and STS-B from MNLI.

The folder must hold the same adapter: the same sites with the same parametrisation, rank and scale. Sites that were off when it was
saved start as they would without it. The head is taken over tensor by tensor where its shape is the same; its outputs by the names of
their labels: they are put into this task's order, and start fresh where the labels are others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lorakit.adapters.adapted_model import SHARED, AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.delta import Delta
from lorakit.adapters.init import inits
from lorakit.adapters.rank_units import axes_of
from lorakit.adapters.switching import DROPPED
from lorakit.artifacts.adapter_file import OUR_TENSORS, OURS, PEFT_CONFIG, PEFT_TENSORS, read_tensors, told_adapter
from lorakit.artifacts.peft.layout import PREFIX, in_peft, peft_name
from lorakit.artifacts.records import reading
from lorakit.artifacts.saved_head import SavedHead, match_head, saved_labels
from lorakit.artifacts.ternary_file import is_ternary
from lorakit.errors import RecipeError, command_line

KEY = "adapter.start"


@torch.no_grad()
def start_from(adapted: AdaptedModel, path: Path, *, with_head: bool = True, growing: bool = False) -> list[str]:
    """Copy the tensors of the run or adapter in ``path`` into a fresh model; what a person should know of it, a sentence each.

    with_head: whether its head comes along too; growing: whether its ranks may be lower: its rank units are then the first ones here.

    Raises RecipeError (key ``adapter.start``) where it is not the same adapter, and then nothing is copied; RunError for damaged files.
    """
    place = adapter_folder(path)
    told = told_adapter(place)
    if is_ternary(place):
        raise RecipeError(f"the adapter of {path} is coded", key=KEY, valid="the run that it was compressed from")
    entries = {site["name"]: site for site in told["sites"]}
    with reading(place / OURS, "the description of an adapter"):
        check_same(adapted, entries, path, growing=growing)
    if (base := told.get("base")) and base != adapted.base_digest:
        what = f"the adapter of {path} belongs to quantised weights of its own run, and this recipe's are others"
        raise RecipeError(what, key=KEY, valid="the same model.quantization, over the same model, here and there")
    tensors: dict[str, torch.Tensor] = {}
    for file in (PEFT_TENSORS, OUR_TENSORS):
        if (place / file).exists():
            tensors |= read_tensors(place / file)
    check_kinds(adapted, tensors, path)
    spread(adapted, entries, tensors)
    grow(adapted, entries, tensors)
    state, taken, fresh = adapted.tensors(), {}, []
    left = SavedHead(left=frozenset(adapted.new_parts), note="adapter.start_head says")
    head = match_head(adapted, saved_labels(place, told)) if with_head else left
    off = [f"{name}." for name, entry in entries.items() if entry["state"] == DROPPED]
    absent = (*off, f"{SHARED}.") if len(off) == len(entries) else tuple(off)
    for key, names in possible_names(adapted).items():
        found = next((name for name in names if name in tensors), None)
        if key in head.left:
            continue
        if found is not None and tensors[found].shape == state[key].shape:
            taken[key] = tensors[found][list(head.order)] if key in head.outputs else tensors[found]
        elif key in adapted.new_parts:
            fresh.append(key)
        elif found is not None or not key.startswith(absent):
            shape = "missing" if found is None else f"{[*tensors[found].shape]} there and {[*state[key].shape]} here"
            raise RecipeError(f"tensor {key} is {shape}", where=str(path), key=KEY)
    for key, tensor in taken.items():
        state[key].copy_(tensor)
    return notes(adapted, path, told, fresh, head)


def check_kinds(adapted: AdaptedModel, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors of another dtype than the model's: nothing is converted."""
    state = adapted.tensors()
    for key, names in possible_names(adapted).items():
        for name in tensors.keys() & names:
            if tensors[name].dtype != state[key].dtype:
                kinds = f"{tensors[name].dtype} there and {state[key].dtype} here"
                raise RecipeError(f"tensor {name} is of {kinds}", where=str(path), key=KEY)


def spread(adapted: AdaptedModel, entries: Mapping[str, Mapping[str, Any]], tensors: dict[str, torch.Tensor]) -> None:
    """Give tensors of live rank units alone their full shape, with the fresh model's own units in the place of those that were off."""
    names, state = possible_names(adapted), adapted.tensors()
    for site, adapter in adapted.adapters.items():
        units = entries[site].get("units")
        if units is None:
            continue
        if not adapter.units.divisible or not all(unit < adapter.rank for unit in units):
            raise RecipeError(f"{site} has no rank units {units}", key=KEY, valid=f"0 to {adapter.rank - 1}")
        for tensor, _, _ in adapter.tensors():
            key = f"{site}.{tensor}"
            for name in tensors.keys() & names[key]:
                axes = axes_of(adapter.delta, tensor)
                live = [len(units) if axis in axes else size for axis, size in enumerate(state[key].shape)]
                if [*tensors[name].shape] != live:
                    raise RecipeError(f"tensor {name} is {[*tensors[name].shape]}, and not {live}", key=KEY)
                tensors[name] = adapter.units.inserted(tensor, tensors[name], units, state[key])


def grow(adapted: AdaptedModel, entries: Mapping[str, Mapping[str, Any]], tensors: dict[str, torch.Tensor]) -> None:
    """Give tensors of fewer rank units the model's shape: they come first in it, the rest is its own fresh one's."""
    names, state = possible_names(adapted), adapted.tensors()
    for site, adapter in adapted.adapters.items():
        rank, delta = entries_sameness(entries[site])["rank"], adapter.delta
        if not isinstance(delta, Delta) or rank >= adapter.rank:
            continue
        for tensor, shape in delta.shapes(adapter.site, rank, delta.settings).items():
            key = f"{site}.{tensor}"
            for name in tensors.keys() & names[key]:
                own = tensors[name]
                if own.shape == shape:  # of another model's widths it stays as it is, and is refused
                    tensors[name] = state[key].clone()
                    tensors[name][tuple(slice(size) for size in shape)] = own


def adapter_folder(path: Path) -> Path:
    """The folder with the tensors: ``path`` itself, or a run's last adapter."""
    place = path / "adapter" if (path / "recipe.yaml").is_file() else path
    if (place / OURS).is_file():
        return place
    if (place / PEFT_CONFIG).is_file():
        raise RecipeError(
            f"{path} is an adapter of PEFT", key=KEY, hint=f"{command_line('import', path, '--task', 'TASK')}, first"
        )
    raise RecipeError(
        f"{path} is neither a run nor an adapter folder", key=KEY, valid="a folder with recipe.yaml or lorakit.json"
    )


def check_same(
    adapted: AdaptedModel, entries: Mapping[str, Mapping[str, Any]], path: Path, *, growing: bool = False
) -> None:
    """Refuse other sites, and other axes, ranks or scales on them; where it is ``growing``, higher ranks there alone."""
    valid = "the same targets, shortcuts, delta, rank and scale in both"
    if only := sorted(set(entries).symmetric_difference(adapted.adapters)):
        where = "there only" if only[0] in entries else "here only"
        raise RecipeError(f"the sites of {path} are not this recipe's: {only[0]} is {where}", key=KEY, valid=valid)
    for init in {*(a.spec.init for a in adapted.adapters.values()), *(e["axes"]["init"] for e in entries.values())}:
        if inits.get(init).quantises:
            what = f"init '{init}' rounds the weights for the adapter that it starts: what is trained over them fits no others"
            raise RecipeError(what, key=KEY, valid="adapters of another init, here and there")
    for name, adapter in adapted.adapters.items():
        ours, theirs = sameness(adapter), entries_sameness(entries[name])
        if growing and theirs["rank"] < ours["rank"] and math.isclose(theirs["scale"], ours["scale"]):
            theirs |= {"rank": ours["rank"], "scale": ours["scale"]}
        for word, own in ours.items():
            if own != theirs[word]:
                what = f"the adapter of {path} is another one: {word} of {name} is {theirs[word]} there and {own} here"
                raise RecipeError(what, key=KEY, valid=valid)


def sameness(adapter: Adapter) -> dict[str, Any]:
    """What must be the same for tensors to mean the same."""
    spec = adapter.spec
    return {
        "delta": spec.delta,
        "options": sorted([name, value] for name, value in spec.options),
        "rank": adapter.rank,
        "scale": adapter.scale,
        "decomposition": spec.decomposition,
        "anchored start": inits.get(spec.init).anchors,
    }


def entries_sameness(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same from lorakit.json."""
    axes = entry["axes"]
    return {
        "delta": axes["delta"],
        "options": sorted([name, value] for name, value in axes["options"]),
        "rank": entry.get("full_rank", entry["rank"]),
        "scale": entry["scale"],
        "decomposition": axes["decomposition"],
        "anchored start": inits.get(axes["init"]).anchors,
    }


def possible_names(adapted: AdaptedModel) -> dict[str, list[str]]:
    """Key in ``AdaptedModel.tensors`` -> what it may be called on disk: by its own name, or in PEFT's form."""
    names = {key: [key, PREFIX + key] for key in adapted.tensors()}
    for site, adapter in adapted.adapters.items():
        if in_peft(adapter):
            for name, _, _ in adapter.tensors():
                names[f"{site}.{name}"].append(f"{PREFIX}{site}.{peft_name(adapter, name)}")
    return names


def notes(adapted: AdaptedModel, path: Path, told: Mapping[str, Any], fresh: list[str], head: SavedHead) -> list[str]:
    """What was taken over, and what was not."""
    off = [site["name"] for site in told["sites"] if site["state"] == DROPPED]
    said = [f"starting from {path}: {len(told['sites']) - len(off)} of {len(told['sites'])} sites"]
    if off:
        said[0] += ", the others were off there and start fresh"
    kept = [name for name in adapted.new_parts if name not in head.left.union(fresh)]
    if kept:
        said.append(f"the head is taken over: {', '.join(kept)}" + (f"; {head.note}" if head.outputs else ""))
    if head.left:
        left = [name for name in adapted.new_parts if name in head.left]
        said.append(f"the head's outputs start fresh, as {head.note}: {', '.join(left)}")
    if fresh:
        said.append(f"the head starts fresh where the other one has another shape: {', '.join(fresh)}")
    if told.get("model") != adapted.backbone.name:
        said.append(f"the adapter was trained on {told.get('model')}, this model is {adapted.backbone.name}")
    return said
