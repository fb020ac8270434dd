"""What the tests of adapters are made of: a backbone, the same with adapters on it, a batch, and ways to use them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import NO_STATISTICS
from lorakit.adapters.attach import attach
from lorakit.adapters.block import blocks
from lorakit.adapters.declaration import START
from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import inits
from lorakit.adapters.method import Method, methods, resolve, shortcut_spec
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.load import Backbone
from lorakit.backbone.quantised import Quantisation
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

FAMILIES = ("bert", "gpt2", "llama", "opt_postnorm")
RANK, ALPHA = 3, 5.0  # alpha / rank is no round number, so that no scale is forgotten
# Of deltas, for tiny models: lengths that divide their widths, and updates that do not make them too steep for bfloat16, nor, as means of
# all inputs would, too small to be seen.
SMALL_OPTIONS = {
    "bank": {"length": "8", "vectors": "10"},
    "tensor_train": {"tensor_rank": "2"},
    "pooled": {"group": "8"},
}
Formula = Callable[[int, int, int], int] | Callable[[Site], int]
SharedFormula = Callable[[int, list[Site]], int]
Fresh = Callable[..., Backbone]


@dataclass
class Case:
    """pretrained: never adapted, with the weights that adapters sit on; adapted: all linear sites on; spec: their axes; again: the same
    once more, with another seed.
    """

    pretrained: nn.Module
    adapted: AdaptedModel
    spec: AdapterSpec
    again: Callable[..., AdaptedModel]
    batch: dict[str, torch.Tensor]
    parameters: Formula | None
    shared: SharedFormula | None
    method: Method
    rank: int
    section: AdapterSection

    @property
    def identity(self) -> bool:
        """Whether the fresh adapters change nothing."""
        return self.method.identity and not self.own_base and self.kind.over_runs != self.kind.name

    @property
    def own_base(self) -> bool:
        """Whether the adapters sit on weights that their start quantised."""
        return inits.get(self.spec.init).quantises

    @property
    def in_full(self) -> bool:
        """Whether parameters of the model's own train."""
        return any(adapter.delta.replaces_parameters for adapter in self.adapted.adapters.values())

    @property
    def kind(self) -> type[Delta]:
        """The delta of the linear sites."""
        return deltas.get(self.spec.delta)


def make_case(
    fresh: Fresh,
    family: str,
    section: AdapterSection,
    parameters: Formula | None = None,
    shared: SharedFormula | None = None,
) -> Case:
    section.rank, section.alpha = section.rank or RANK, section.alpha or ALPHA
    pretrained = fresh(family, shared=True)

    def again(seed: int = 1, **options: Any) -> AdaptedModel:
        return adapt(to_quantise(fresh(family, **options), section), section, seed=seed)

    adapted = again(0)
    batch = batch_for(pretrained.model)
    method = methods.get(section.method)
    spec = resolve(section)
    if inits.get(spec.init).quantises:
        pretrained = on_dense(fresh(family), adapted)
    return Case(pretrained.model, adapted, spec, again, batch, parameters, shared, method, section.rank, section)


def to_quantise(backbone: Backbone, section: AdapterSection) -> Backbone:
    """The backbone as an init that quantises finds it."""
    if inits.get(resolve(section).init).quantises:
        pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
        backbone.to_quantise = Quantisation("nf4")
    return backbone


@torch.no_grad()
def on_dense(backbone: Backbone, adapted: AdaptedModel) -> Backbone:
    """The backbone with the weights that the adapters sit on, dense."""
    for name, adapter in adapted.adapters.items():
        backbone.model.get_submodule(name).weight.copy_(adapter.base_weight())
    return backbone


def adapt(
    backbone: Backbone,
    section: AdapterSection,
    *,
    targets: Collection[str] = ("all",),
    shortcuts: Collection[str] = (),
    seed: int = 0,
    ranks: Mapping[str, int] | None = None,
) -> AdaptedModel:
    """Adapters on ``targets`` and ``shortcuts``, each initialised from a stream of its own."""
    anatomy = backbone.anatomy
    block = methods.get(section.method).block
    own = blocks.get(block).sites(backbone) if block else anatomy.select(list(targets)) if targets else ()
    sites = [*own, *anatomy.shortcuts(list(shortcuts)), *methods.get(section.method).sites_in_full(backbone)]

    def stream(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed * 10_000 + sum(map(ord, name)))

    linear, shortcut = resolve(section), shortcut_spec(section)
    needs = inits.get(linear.init).needs
    return attach(
        backbone,
        sites,
        linear,
        shortcut,
        norm=section.shortcut_norm,
        ranks=ranks,
        block=block,
        statistics=statistics_for(sites, needs, stream),
        generator_for=stream,
    )


def statistics_for(
    sites: list[Site], needs: str, stream: Callable[[str], torch.Generator]
) -> dict[str, dict[str, torch.Tensor]]:
    """Random, but possible, statistics of training data for the inits that look at them."""
    if needs == "covariance":
        inputs = {
            site.name: torch.randn(4 * site.in_features, site.in_features, generator=stream(site.name))
            for site in sites
        }
        return {name: {"covariance": x.T @ x / len(x), "mean": x.mean(dim=0)} for name, x in inputs.items()}
    shapes = {site.name: (site.out_features, site.in_features) for site in sites}
    if needs == "gradient":
        return {name: {"gradient": 0.1 * torch.randn(shape, generator=stream(name))} for name, shape in shapes.items()}
    if needs == "fisher":
        return {name: {"fisher": 0.1 * torch.rand(shape, generator=stream(name))} for name, shape in shapes.items()}
    return {site.name: dict(NO_STATISTICS) for site in sites}


def take_base(adapted: AdaptedModel, other: AdaptedModel) -> None:
    """Give a model the weights that the start of another one quantised, where it did."""
    held = other.own_base()
    for name, buffer in adapted.own_base().items():
        buffer.copy_(held[name])
    for adapter in adapted.adapters.values():
        if adapter.own_base:
            adapter.measure_base()


def batch_for(model: Any) -> dict[str, torch.Tensor]:
    """Two rows of random tokens, the second shorter and padded on the right."""
    tokens = torch.randint(4, model.config.vocab_size, (2, 7), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    return {"input_ids": tokens.masked_fill(mask == 0, model.config.pad_token_id), "attention_mask": mask}


def logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch).logits


def evaluated(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return logits(model, batch)


@torch.no_grad()
def disturb(adapted: AdaptedModel, seed: int = 5) -> None:
    """Change every adapter tensor at random, as if it had been trained: role B is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    for holder in (*adapted.adapters.values(), *adapted.shared.values()):
        for _, tensor, role in holder.tensors():
            if role == START:
                continue
            if role == "magnitude":
                tensor.mul_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))


@torch.no_grad()
def merged(pretrained: nn.Module, adapted: AdaptedModel) -> nn.Module:
    """A plain model whose weights are the effective ones."""
    plain = copy.deepcopy(pretrained)
    for name, adapter in adapted.adapters.items():
        module = plain.get_submodule(name)
        if adapter.delta.replaces_parameters:
            for key, tensor, _ in adapter.tensors():
                module.get_parameter(key).copy_(tensor)
            continue
        if getattr(module, "bias", None) is not None:
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            module.bias.copy_(adapter.effective_bias(weight, module.bias))
        if isinstance(module, Conv1D):  # its weight is (in, out)
            module.weight.copy_(adapter.effective_weight(module.weight.T).T)
        else:
            module.weight.copy_(adapter.effective_weight(module.weight))
    return plain


def backward(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """A loss that no output leaves without a gradient."""
    out = logits(model, batch)
    (out.float() * torch.arange(1, out.numel() + 1).reshape(out.shape)).sum().backward()


def hooks(model: nn.Module) -> int:
    """How many forward hooks are in the model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
