"""Sites made of modules' own parameters: what norms, biases and full fine-tuning have in common."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError


def module_sites(backbone: Backbone, role: str, wanted: Callable[[nn.Module, str], bool]) -> list[Site]:
    """A site for every module that has parameters of its own, new parts left out, for which ``wanted(module, name)`` holds."""
    layers = {path: number for number, (path, _) in enumerate(backbone.anatomy.layers)}
    new = set(backbone.new_parts)
    seen: set[int] = set()
    sites = []
    for path, module in backbone.model.named_modules():
        layer = next((number for name, number in layers.items() if path == name or path.startswith(f"{name}.")), -1)
        parameters = []
        for name, parameter in module.named_parameters(recurse=False):
            if f"{path}.{name}" not in new and id(parameter) not in seen and wanted(module, name):
                seen.add(id(parameter))
                parameters.append((name, tuple(parameter.shape)))
        if parameters:
            shape = max((shape for _, shape in parameters), key=len)
            sites.append(Site(path, layer, role, shape[-1], shape[0], "module", parameters=tuple(parameters)))
    if not sites:
        raise RecipeError(f"this {backbone.anatomy.family} model has no {role} to train", key="adapter.method")
    return sites
