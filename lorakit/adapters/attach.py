"""A backbone with adapters on its sites: what trains, what is on, and how it is switched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapter import DROPPED, FROZEN, NO_STATISTICS, ON, WATCHED, Adapter
from lorakit.adapters.block import Wiring, blocks
from lorakit.adapters.blocks.shortcut import Shortcuts
from lorakit.adapters.budget import costs, shared_cost, spec_for
from lorakit.adapters.counting import settings, shared_shapes
from lorakit.adapters.delta import Delta, Shared, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError, RunError

HEAD = "head"
SHARED = "shared"
NO_SITE_STATISTICS: Mapping[str, Mapping[str, torch.Tensor]] = MappingProxyType({})


@dataclass(frozen=True)
class TrainedTensor:
    """One tensor that trains: its name as in ``state``, itself, its role (A, B, magnitude, head), its site.

    The site is None for the head and for what sites share.
    """

    name: str
    parameter: nn.Parameter
    role: str
    site: str | None


class AdaptedModel:
    """The backbone and its adapters.

    model: the transformers model; sites: all sites in order; adapters: site name -> Adapter; shared: group -> the tensors its sites
    have in common; new_parts: names of the head's and other newly initialised parameters, which always train; wirings: what
    installs adapters that are no module's own.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Mapping[str, Adapter],
        shortcuts: Shortcuts | None,
        shared: Mapping[str, Shared] | None = None,
        wiring: Wiring | None = None,
    ):
        self.backbone = backbone
        self.model: nn.Module = backbone.model
        self.adapters = dict(adapters)
        self.sites: list[Site] = [adapter.site for adapter in self.adapters.values()]
        self.new_parts = list(backbone.new_parts)
        self.shortcuts = shortcuts
        self.shared = dict(shared or {})
        self.wirings: list[Wiring] = [wired for wired in (shortcuts, wiring) if wired is not None]
        self.switch(self.adapters)

    def switch(self, on: Collection[str], *, off: str = "drop") -> None:
        """Put exactly ``on`` into training. The others leave the function (``drop``), or stay in it untrained (``freeze``).

        A site whose update is still zero is left out of the function either way. Raises ValueError for a name
        that is no site's.
        """
        if unknown := set(on) - set(self.adapters):
            raise ValueError(f"there are no sites called {', '.join(sorted(unknown))}")

        def state_of(name: str, adapter: Adapter) -> str:
            if name in on:
                return ON
            return FROZEN if off == "freeze" and not adapter.untrained() else DROPPED

        self.restore({name: state_of(name, adapter) for name, adapter in self.adapters.items()})

    def restore(self, states: Mapping[str, str]) -> None:
        """Put every adapter into its recorded state (see ``states``)."""
        for name, adapter in self.adapters.items():
            adapter.switch(states[name])
        for group, shared in self.shared.items():
            users = {self.adapters[name].state: self.adapters[name] for name in self.users(group)}
            for _, parameter, role in shared.tensors():
                parameter.requires_grad_(ON in users and users[ON].spec.trains(role))
        for wiring in self.wirings:
            wiring.wire()

    def states(self) -> dict[str, str]:
        """Site name -> dropped, frozen or on."""
        return {name: adapter.state for name, adapter in self.adapters.items()}

    def ranks(self) -> dict[str, int]:
        """Site name -> its live rank units; 0 where it is not in training."""
        return {name: a.live if a.state == ON else 0 for name, a in self.adapters.items()}

    def units(self) -> dict[str, dict[str, Any]]:
        """The rank units of every site that has not all of them, ready for JSON: which are live, and whether the rest is cut off."""
        return {
            name: {"live": a.units.nonzero().flatten().tolist(), "cut": a.delta.width is not None}
            for name, a in self.adapters.items()
            if not a.units.all()
        }

    def restore_units(self, record: Mapping[str, Mapping[str, Any]]) -> None:
        """Put every site's rank units as ``units`` recorded them."""
        for name, adapter in self.adapters.items():
            if name not in record:
                adapter.cut(None)
            elif record[name]["cut"]:
                adapter.cut(len(record[name]["live"]))
            else:
                adapter.keep(torch.tensor([unit in record[name]["live"] for unit in range(adapter.rank)]))

    def watch(self, wanted: bool) -> None:
        """Let the sites that are off get gradients for one step without being in the function, or end that.

        A dropped site is watched from outside; a frozen one is in the function and is thawed. Gradients of sites that were not on are
        forgotten at the end.
        """
        for adapter in self.adapters.values():
            if wanted and adapter.state == DROPPED:
                adapter.switch(WATCHED)
            elif wanted and adapter.state == FROZEN:
                adapter.thaw()
            elif not wanted and adapter.state in (WATCHED, FROZEN):
                adapter.switch(DROPPED if adapter.state == WATCHED else FROZEN)
                for _, parameter, _ in adapter.trained_tensors():
                    parameter.grad = None
        for wiring in self.wirings:
            wiring.wire()

    @property
    def on(self) -> list[str]:
        """The names of the sites in training, in model order."""
        return [name for name, adapter in self.adapters.items() if adapter.state == ON]

    @property
    def in_function(self) -> list[str]:
        """The names of the sites whose update is part of the function, trained or not."""
        return [name for name, adapter in self.adapters.items() if adapter.in_function]

    def users(self, group: str) -> list[str]:
        """The names of the sites that have this group's shared tensors in common."""
        return [name for name, a in self.adapters.items() if a.delta.shared is self.shared[group]]

    def trained(self) -> Iterator[TrainedTensor]:
        """Every tensor that may train in this run, whether its site is on or off just now; the order never changes."""
        for group, shared in self.shared.items():
            spec = self.adapters[self.users(group)[0]].spec
            for name, parameter, role in shared.tensors():
                if spec.trains(role):
                    yield TrainedTensor(f"{SHARED}.{group}.{name}", parameter, role, None)
        for site, adapter in self.adapters.items():
            for name, parameter, role in adapter.trained_tensors():
                yield TrainedTensor(f"{site}.{name}", parameter, role, site)
        parameters = dict(self.model.named_parameters())
        for name in self.new_parts:
            yield TrainedTensor(name, parameters[name], HEAD, None)

    def state(self) -> dict[str, torch.Tensor]:
        """Every adapter tensor and new part, by the names that ``load_state`` takes. Shares memory with the model."""
        tensors = {
            f"{site}.{name}": parameter.detach()
            for site, adapter in self.adapters.items()
            for name, parameter, _ in adapter.tensors()
        }
        shared = {
            f"{SHARED}.{group}.{name}": parameter.detach()
            for group, held in self.shared.items()
            for name, parameter, _ in held.tensors()
        }
        parameters = dict(self.model.named_parameters())
        return tensors | shared | {name: parameters[name].detach() for name in self.new_parts}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy values in. Raises RunError where a tensor of ``state`` is missing or has another shape; then nothing is copied."""
        state = self.state()
        for name, own in state.items():
            if name not in tensors:
                raise RunError(f"there is no tensor '{name}' among those to load")
            if tensors[name].shape != own.shape:
                raise RunError(f"'{name}' has shape {[*tensors[name].shape]}, the model's has {[*own.shape]}")
        for name, own in state.items():
            own.copy_(tensors[name])

    def adapter_parameters(self, sites: Iterable[str] | None = None) -> int:
        """Trained adapter parameters of ``sites`` (those that are on, where none are given), the head not counted.

        What sites share counts once, wherever one of its users is among them.
        """
        chosen = set(self.on if sites is None else sites)
        own = sum(self.adapters[name].parameters_at(self.adapters[name].live) for name in chosen)
        used = {f"{SHARED}.{group}" for group in self.shared if chosen & set(self.users(group))}
        return own + sum(
            tensor.parameter.numel()
            for tensor in self.trained()
            if tensor.site is None and tensor.name.rpartition(".")[0] in used
        )

    def head_parameters(self) -> int:
        """Parameters of the head and other new parts."""
        return sum(tensor.parameter.numel() for tensor in self.trained() if tensor.role == HEAD)


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
    generator_for: Callable[[str], torch.Generator] | None = None,
) -> AdaptedModel:
    """Build an adapter on each of ``sites`` and switch all of them on.

    ranks and options: site name -> rank, options of the delta, where they are not its spec's; block: what the sites belong to where they
    are not projections; statistics: site name -> what its init needs of training data, None where the tensors are loaded
    afterwards; generator_for: the init stream of a site or a shared tensor by name, so that a site starts the same whatever other
    sites there are. Raises RecipeError for a rank above what the matrix has, and for sites that the delta cannot sit on.
    """
    sites = list(sites)
    stream = generator_for or (lambda name: torch.Generator().manual_seed(0))

    def rank_of(site: Site) -> int:
        return (ranks or {}).get(site.name, spec_for(site, linear, shortcut).rank)

    check_sites(backbone, sites, linear, shortcut, rank_of, options or {})
    shared = share(linear, [site for site in sites if not site.is_shortcut], rank_of, stream)
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
        )
        if base is not None:
            others = sum(isinstance(child, Adapter) for child in base.children())
            base.add_module(f"adapter{others + 1 if others else ''}", adapter)
        adapters[site.name] = adapter
    device = next(backbone.model.parameters()).device
    for held in [*(a for a in adapters.values() if a.base is None), *shared.values()]:
        held.to(device)
    crossing = [adapter for adapter in adapters.values() if adapter.site.is_shortcut]
    shortcuts = Shortcuts(backbone.anatomy.streams, crossing, norm) if crossing else None
    of_block = [adapter for adapter in adapters.values() if not adapter.site.is_shortcut]
    wiring = blocks.get(block).wiring(backbone, of_block) if block else None
    if shared:
        backbone.model.add_module(free_name(backbone.model, SHARED), nn.ModuleDict(shared))
    backbone.model.train(backbone.model.training)  # what was added is in the model's mode
    return AdaptedModel(backbone, adapters, shortcuts, shared, wiring)


def free_name(model: nn.Module, name: str) -> str:
    """``name``, numbered where a module is called so already."""
    taken = sum(child.startswith(name) for child, _ in model.named_children())
    return f"{name}{taken + 1}" if taken else name


def share(
    spec: AdapterSpec, sites: list[Site], rank_of: Callable[[Site], int], stream: Callable[[str], torch.Generator]
) -> dict[str, Shared]:
    """Group -> the tensors its sites have in common, at their start."""
    delta = deltas.get(spec.delta)
    groups: dict[str, Shared] = {}
    for group, shapes in shared_shapes(spec, sites, rank_of).items():
        held = Shared(shapes, delta)
        generator = stream(f"{SHARED}/{group}")
        held.begin(generator)
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
    """Refuse ranks that a matrix cannot have, and sites that a delta cannot sit on."""
    for site in sites:
        spec = spec_for(site, linear, shortcut).with_options(options.get(site.name))
        delta = deltas.get(spec.delta)
        check_rank(site, rank_of(site), "adapter.shortcut_rank" if site.is_shortcut else "adapter.rank", delta)
        reason = delta.check(site, rank_of(site), settings(spec))
        if not reason and site.kind not in delta.kinds:
            reason = f"it is a {site.kind}, and '{spec.delta}' sits on {', '.join(delta.kinds)}"
        dtype = next(backbone.model.parameters()).dtype
        if not reason and delta.replaces and dtype != torch.float32:
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
    if sites and not sum(each.values()) + shared_cost(sites, linear, shortcut, ranks):
        raise RecipeError(
            f"trainable '{linear.trainable}' leaves nothing to train on any of the {len(sites)} sites",
            key="adapter.trainable",
            valid="all, or roles that these sites have (a site without a bias has no vectors of one)",
        )


def check_rank(site: Site, rank: int, key: str, delta: type[Delta] | None = None) -> None:
    """Refuse a rank that the site's matrix cannot have."""
    limit = (delta or deltas.get("low_rank")).highest_rank(site)
    if rank < 1 or (limit is not None and rank > limit):
        shape = f"{site.out_features}x{site.in_features}"
        valid = "at least 1" if limit is None else f"1 to {limit}"
        raise RecipeError(Problem(f"rank {rank} does not fit site {site.name} ({shape})", key=key, valid=valid))
