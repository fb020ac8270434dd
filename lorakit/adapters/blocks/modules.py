"""Sites made of modules' own parameters: what norms, biases and full fine-tuning have in common."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.shared import Shared
from lorakit.backbone.load import Backbone
from lorakit.backbone.quantised import KEY, NONE, QuantisedLinear
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError


def module_sites(backbone: Backbone, role: str, wanted: Callable[[nn.Module, str], bool]) -> list[Site]:
    """A site for every module that has parameters of its own for which ``wanted(module, name)`` holds.

    New parts are left out, and so are other adapters; a module that stands at several places in the model is one site. Raises
    RecipeError where there is no such parameter, and where two modules have one in common.
    """
    layers = {path: number for number, (path, _) in enumerate(backbone.anatomy.layers)}
    new = set(backbone.new_parts)
    adapters = adapter_modules(backbone.model)
    owners: dict[int, str] = {}
    sites = []
    for path, module in backbone.model.named_modules():
        if module in adapters:
            continue
        layer = next((number for name, number in layers.items() if path == name or path.startswith(f"{name}.")), -1)
        if isinstance(module, QuantisedLinear) and wanted(module, "weight"):
            raise RecipeError(
                f"this adapter trains the weight of {path}, which is quantised",
                key=KEY,
                valid=f"{NONE} with it",
                hint="adapter.method=lora, or another that adds to W x",
            )
        parameters = []
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}" in new or not wanted(module, name):
                continue
            if id(parameter) in owners:
                raise RecipeError(
                    f"{owners[id(parameter)]} and {path} have one {name} in common, which cannot be trained in one of them",
                    key="adapter.method",
                    hint="a method that leaves the model's own parameters alone, such as lora",
                )
            owners[id(parameter)] = path
            parameters.append((name, tuple(parameter.shape)))
        if parameters:
            shape = max((shape for _, shape in parameters), key=len)
            sites.append(Site(path, layer, role, shape[-1], shape[0], "module", parameters=tuple(parameters)))
    if not sites:
        raise RecipeError(f"this {backbone.anatomy.family} model has no {role} to train", key="adapter.method")
    return sites


def adapter_modules(model: nn.Module) -> set[nn.Module]:
    """All modules of adapters that the model carries already."""
    holders = (module for module in model.modules() if isinstance(module, Adapter | Shared))
    return {inner for holder in holders for inner in holder.modules()}
