"""A model that somebody loaded or wrote: what can be adapted in it, and what of it trains whole."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.backbone.anatomy import Anatomy, linear_sites
from lorakit.backbone.head import outside_names
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.backbone.unusable import refuse_unusable
from lorakit.errors import Problem, RecipeError, RunError, UsageError, nearest

NOT_KNOWN = "of a model that is none of transformers' only the Linear modules are known, by their names"


class NamedModules(Anatomy):
    """What is known of any ``nn.Module``: its Linear and Conv1D modules by their names, none of them in a layer or with a role.

    without: parameters that train whole, whose modules are no sites. Raises UsageError where nothing is left.
    """

    def __init__(self, model: nn.Module, without: Collection[str]):
        whole = {name.rpartition(".")[0] for name in without}
        found = linear_sites([("", model)], lambda path: "other")
        self.family = type(model).__name__
        self.layers = []
        self.sites = [replace(site, layer=-1) for site in found if site.name and site.name not in whole]
        self.elsewhere = tuple(sorted(whole))
        self.residual_sums, self.no_shortcuts = [], NOT_KNOWN
        self.hidden_size = 0
        if not self.sites:
            raise UsageError(f"this {self.family} has no Linear module with a name that could be adapted")

    @property
    def roles(self) -> list[str]:
        """None: a name alone says no role."""
        return []

    def _of_role(self, target: str) -> list[Site]:
        return []

    def _inner_names(self) -> list[str]:
        return [site.name for site in self.sites]

    def _choices(self) -> str:
        return super()._choices().replace("roles , ", "")


def own_backbone(model: nn.Module, new_parts: Sequence[str]) -> Backbone:
    """``model`` as adapters see it, changed in nothing; new_parts: the parameters that train whole.

    Raises RecipeError or UsageError for a model with nothing that can be adapted.
    """
    if not isinstance(model, PreTrainedModel):
        return Backbone(model, None, NamedModules(model, new_parts), list(new_parts), type(model).__name__)
    name = str(model.name_or_path) or type(model).__name__
    refuse_unusable(model.config, name)
    return Backbone(model, None, Anatomy(model), list(new_parts), name)


def usual_head(model: nn.Module) -> list[str]:
    """The parameters that train whole where nobody says: of a classifier of transformers what stands outside its base model, else none."""
    classifies = isinstance(model, PreTrainedModel) and model.get_output_embeddings() is None  # words are no labels
    return outside_names(model) if classifies else []


def check_plain(model: Any) -> None:
    """UsageError for what is no module, or one around the module that is meant; RunError for weights that cannot be adapted here."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"a model is an nn.Module, and this is a {type(model).__name__}")
    inner = next((name for name in ("_orig_mod", "module", "_fsdp_wrapped_module") if wraps(model, name)), "")
    if inner:
        what = f"a {type(model).__name__} is around the model, and would not see what is put into it"
        raise UsageError(what, hint="adapt the model first, and wrap or compile it afterwards")
    if hasattr(model, "peft_config"):
        raise UsageError("PEFT has put an adapter into this model already", hint="a fresh model")
    if getattr(model, "is_quantized", False):
        what = "the weights of this model are quantised by another library"
        raise RunError(what, hint="lorakit train with model.quantization quantises them itself")
    made = [
        name
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear) and each._parameters.get("weight") is None
    ]
    if made:
        what = f"the weight of {made[0]} is computed from other tensors (a parametrization of torch)"
        raise UsageError(what, hint="torch.nn.utils.parametrize.remove_parametrizations, which leaves the weight")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise RunError("this model has no weights yet: it is on the device 'meta'", hint="load it first")


def wraps(model: nn.Module, name: str) -> bool:
    """Whether all of ``model`` is one module of this name: what data parallel and torch.compile make."""
    own = type(model).__module__.partition(".")[0]
    return own in ("torch", "accelerate", "deepspeed") and isinstance(getattr(model, name, None), nn.Module)


def named_parts(model: nn.Module, wanted: Sequence[str]) -> list[str]:
    """The parameters that ``wanted`` names, in model order: a parameter, or a module with all of its own, by a regex as targets are.

    RecipeError for every entry that matches nothing.
    """
    known, problems = [name for name, _ in model.named_parameters()], []
    owner = {id(parameter): name for name, parameter in model.named_parameters()}
    tied = {n: owner[id(p)] for n, p in model.named_parameters(remove_duplicate=False) if n != owner[id(p)]}
    chosen: set[str] = set()
    for entry in wanted:
        try:
            pattern = re.compile(rf"(.*\.)?({entry})")
        except re.error as error:
            problems.append(Problem(f"'{entry}' is no regex: {error}", key="head"))
            continue
        found = [name for name in known if any(map(pattern.fullmatch, paths_to(name)))]
        for other, own in tied.items():
            if own not in found and any(map(pattern.fullmatch, paths_to(other))):
                what = f"{other} is one tensor with {own}, and neither trains without the other"
                problems.append(Problem(what, key="head", hint=f"head='{own}' where both are to train"))
                found.append(own)
        if not found:
            modules = dict.fromkeys(path for name in known for path in paths_to(name))
            short = [path.rpartition(".")[2] for path in modules]
            what = f"'{entry}' matches no module or parameter of this {type(model).__name__}"
            problems.append(Problem(what, key="head", hint=nearest(entry, [*modules, *short])))
        chosen.update(found)
    if problems:
        raise RecipeError(problems)
    return [name for name in known if name in chosen]


def paths_to(name: str) -> Iterator[str]:
    """``a.b.c`` -> a, a.b, a.b.c."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def frozen_tensors(model: nn.Module, without: Collection[str], inner: Collection[int] = ()) -> dict[str, torch.Tensor]:
    """Name -> parameter or kept buffer of a model, ``without`` those that train, under whatever names; shares memory.

    inner: ids of modules that are not its own.
    """
    found = {
        ".".join(filter(None, (path, name))): tensor
        for path, module in model.named_modules(remove_duplicate=False)
        if id(module) not in inner
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None and name not in module._non_persistent_buffers_set
    }
    whole = {id(model.get_parameter(name)) for name in without}
    return {name: tensor for name, tensor in found.items() if id(tensor) not in whole}
