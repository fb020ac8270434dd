"""Put adapters on the sites of a backbone: what may sit where, what sites share, and the adapted model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapted_model import SHARED, AdaptedModel
from lorakit.adapters.adapter import NO_STATISTICS, Adapter
from lorakit.adapters.block import blocks, free_name
from lorakit.adapters.blocks.shortcut import Shortcuts
from lorakit.adapters.conflicts import roles_of
from lorakit.adapters.counting import costs, shared_cost, shared_shapes, sharing, spec_for
from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.row_mask import not_given_rows
from lorakit.adapters.shared import Shared
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.load import Backbone
from lorakit.backbone.quantised import MixedLinear, quantise_sites, quantised_modules
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError

NO_SITE_STATISTICS: Mapping[str, Mapping[str, torch.Tensor]] = MappingProxyType({})


def attach(
    backbone: Backbone,
    sites: Iterable[Site],
    linear: AdapterSpec,
    shortcut: AdapterSpec,
    *,
    norm: str = "fused",
    ranks: Mapping[str, int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    block: str | None = None,
    statistics: Mapping[str, Mapping[str, torch.Tensor]] | None = NO_SITE_STATISTICS,
    exact: bool = False,
    generator_for: Callable[[str], torch.Generator] | None = None,
) -> AdaptedModel:
    """Build an adapter on each of ``sites`` and switch all of them on.

    Args:
        backbone: the model. It is changed: the adapters live in it.
        sites: where they go, in model order.
        linear: what the adapters of modules, and of a block, are made of.
        shortcut: what those of shortcuts are made of.
        norm: how the sums that shortcuts add to are normalised, fused or paper.
        ranks: site name -> rank, where it is not its spec's.
        options: site name -> options of the delta, where they are not its spec's.
        block: what the sites belong to where they are not projections.
        statistics: site name -> what its init needs of training data, None where the tensors are loaded afterwards.
        exact: whether inits decompose large matrices exactly (``spectrum``).
        generator_for: name of a site or of a shared tensor -> its init stream, so that a site starts the same whatever others there are.

    Raises:
        RecipeError: for a rank above what the matrix has, and for sites that the delta cannot sit on.
    """
    sites = list(sites)
    stream = generator_for or (lambda name: torch.Generator().manual_seed(0))

    def rank_of(site: Site) -> int:
        return (ranks or {}).get(site.name, spec_for(site, linear, shortcut).rank)

    check_sites(backbone, sites, linear, shortcut, rank_of, options or {})
    check_rows(backbone.model, sites, linear)
    prepare_quantising(backbone, linear, statistics or NO_SITE_STATISTICS)
    shared = build_shared(linear, sharing(sites, linear), rank_of, stream)
    adapters: dict[str, Adapter] = {}
    for site in sites:
        spec = spec_for(site, linear, shortcut).with_options((options or {}).get(site.name))
        delta = deltas.get(spec.delta)
        base = backbone.model.get_submodule(site.name) if site.is_module else None
        adapter = Adapter(
            site,
            spec,
            rank_of(site),
            base,
            stream(site.name),
            shared=shared.get(delta.group(site)) if delta.shared_roles else None,
            statistics=None if statistics is None else statistics.get(site.name, NO_STATISTICS),
            quantise=quantise_for(site, spec, backbone, base) if statistics is not None else None,
            exact=exact,
        )
        if base is not None:
            others = sum(isinstance(child, Adapter) for child in base.children())
            base.add_module(f"adapter{others + 1 if others else ''}", adapter)
        adapters[site.name] = adapter
    quantise_rest(backbone)
    tell_kept(backbone, adapters.values())
    device = next(backbone.model.parameters()).device
    for held in [*(a for a in adapters.values() if a.base is None), *shared.values()]:
        held.to(device)
    crossing = [adapter for adapter in adapters.values() if adapter.site.is_shortcut]
    shortcuts = Shortcuts(backbone.anatomy.residual_sums, crossing, norm) if crossing else None
    of_block = [adapter for adapter in adapters.values() if not adapter.site.is_shortcut]
    pooling = [adapter for adapter in of_block if deltas.get(adapter.spec.delta).pools_rows]
    wiring = blocks.get(block).wiring(backbone, of_block) if block else None
    if pooling:
        wiring = deltas.get(linear.delta).wiring(backbone.model, pooling)
    if shared:
        backbone.model.add_module(free_name(backbone.model, SHARED), nn.ModuleDict(shared))
    backbone.model.train(backbone.model.training)  # what was added is in the model's mode
    return AdaptedModel(backbone, adapters, shortcuts, shared, wiring)


def prepare_quantising(
    backbone: Backbone, linear: AdapterSpec, statistics: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Decide how every matrix is quantised, by the Fisher information where there is one; quantise all unless the init does so itself."""
    if (how := backbone.to_quantise) is not None:
        fisher = {name: found["fisher"] for name, found in statistics.items() if "fisher" in found}
        backbone.to_quantise = how.settled(backbone.model, backbone.anatomy, fisher)
        if not inits.get(linear.init).quantises:
            quantise_rest(backbone)


def quantise_for(
    site: Site, spec: AdapterSpec, backbone: Backbone, base: nn.Module | None
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """How the site's weight is quantised, for an init that does so itself. RecipeError where there is nothing to quantise."""
    if not inits.get(spec.init).quantises:
        return None
    if backbone.to_quantise is None or type(base) is not nn.Linear:
        raise RecipeError(
            Problem(
                f"init '{spec.init}' starts from the weight before it is rounded, and {site.name} has none",
                key="adapter.init",
                hint="a quantised base and plain Linear modules, each at one place",
            )
        )
    return partial(backbone.to_quantise.at(site.name).put, base)


def quantise_rest(backbone: Backbone) -> None:
    """Quantise what still waits, of which no start did so itself."""
    if backbone.to_quantise is not None:
        how, backbone.to_quantise = backbone.to_quantise, None
        backbone.notes.append(quantise_sites(backbone.model, backbone.anatomy, how))


def tell_kept(backbone: Backbone, adapters: Iterable[Adapter]) -> None:
    """Say what quantised weights the run keeps, if any."""
    own = {adapter.base for adapter in adapters if adapter.own_base and adapter.base is not None}
    own |= {module for module in quantised_modules(backbone.model) if isinstance(module, MixedLinear)}
    if own:
        kept = sum(buffer.nbytes for module in own for buffer in module.buffers(recurse=False)) / 2**20
        backbone.notes.append(f"the run keeps the quantised weights of {len(own)} sites, {kept:.1f} MiB")


def build_shared(
    spec: AdapterSpec, sites: list[Site], rank_of: Callable[[Site], int], stream: Callable[[str], torch.Generator]
) -> dict[str, Shared]:
    """Group -> the tensors its sites have in common, at their start."""
    delta = deltas.get(spec.delta)
    groups: dict[str, Shared] = {}
    for group, shapes in shared_shapes(spec, sites, rank_of).items():
        held = Shared(shapes, delta)
        generator = stream(f"{SHARED}/{group}")
        held.put_at_start(generator)
        inits.get(spec.init)(held, InitContext(None, 1.0, generator))
        groups[group] = held
    return groups


def check_sites(
    backbone: Backbone,
    sites: Sequence[Site],
    linear: AdapterSpec,
    shortcut: AdapterSpec,
    rank_of: Callable[[Site], int],
    options: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse ranks that a matrix cannot have, and sites that a delta cannot sit on: modules are trained in full beside others alone."""
    beside = bool(sharing(sites, linear))
    for site in sites:
        axes = spec_for(site, linear, shortcut) if beside or site.is_shortcut else linear
        spec = axes.with_options(options.get(site.name))
        delta = deltas.get(spec.delta)
        check_rank(site, rank_of(site), "adapter.shortcut_rank" if site.is_shortcut else "adapter.rank", delta)
        if wrong := delta.misfit(rank_of(site), spec.settings):
            key = "adapter.site_options" if site.name in options else "adapter.options"
            raise RecipeError(
                f"delta '{spec.delta}' cannot be made so: {wrong}", key=key, hint=f"lorakit show {spec.delta}"
            )
        reason = delta.refusal(site, rank_of(site), spec.settings)
        if not reason and site.kind not in delta.kinds:
            reason = f"it is a {site.kind}, and '{spec.delta}' sits on {', '.join(delta.kinds)}"
        dtype = next(backbone.model.parameters()).dtype
        if not reason and delta.replaces_parameters and dtype != torch.float32:
            raise RecipeError(
                "what trains the model's own parameters needs them in float32",
                key="model.dtype",
                valid="float32",
                hint="training.precision=bf16 makes it fast all the same",
            )
        if reason:
            raise RecipeError(
                Problem(
                    f"delta '{spec.delta}' cannot sit on {site.name} ({site.out_features}x{site.in_features}): {reason}",
                    key="adapter.targets" if spec.delta == linear.delta else "adapter.shortcuts",
                    hint="other targets, another rank, or another method",
                )
            )
    ranks = {site.name: rank_of(site) for site in sites}
    each = costs(sites, linear, shortcut, ranks, options)
    can_train = roles_of(deltas.get(linear.delta))
    if sites and can_train and not sum(each.values()) + shared_cost(sites, linear, shortcut, ranks):
        raise RecipeError(
            f"trainable '{linear.trainable}' leaves nothing to train on any of the {len(sites)} sites",
            key="adapter.trainable",
            valid="all, or roles that these sites have (a site without a bias has no vectors of one)",
        )


def check_rows(model: nn.Module, sites: Sequence[Site], linear: AdapterSpec) -> None:
    """Refuse modules that are not given rows, for a delta that looks at whole ones."""
    if not deltas.get(linear.delta).pools_rows:
        return
    modules = {site.name: model.get_submodule(site.name) for site in sharing(sites, linear) if site.is_module}
    if other := not_given_rows(model, modules):
        what = f"delta '{linear.delta}' looks at all of a row's tokens, and {other} is not given those of one row after the other"
        hint = "adapter.targets without it, or a method that looks at single tokens: adapter.method=lora_moe"
        raise RecipeError(Problem(what, key="adapter.targets", hint=hint))


def check_rank(site: Site, rank: int, key: str, delta: type[Delta] | None = None) -> None:
    """Refuse a rank that the site's matrix cannot have."""
    limit = (delta or deltas.get("low_rank")).highest_rank(site)
    if rank < 1 or (limit is not None and rank > limit):
        shape = f"{site.out_features}x{site.in_features}"
        valid = "at least 1" if limit is None else f"1 to {limit}"
        raise RecipeError(Problem(f"rank {rank} does not fit site {site.name} ({shape})", key=key, valid=valid))
