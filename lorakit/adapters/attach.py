"""A backbone with adapters on its sites: what trains, what is on, and how it is switched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorakit.adapters.adapter import DROPPED, FROZEN, ON, Adapter
from lorakit.adapters.blocks.shortcut import Shortcuts
from lorakit.adapters.budget import spec_for
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.errors import Problem, RecipeError, RunError

HEAD = "head"


@dataclass(frozen=True)
class TrainedTensor:
    """One tensor that trains: its name as in ``state``, itself, its role (A, B, magnitude, head), its site (None for the head)."""

    name: str
    parameter: nn.Parameter
    role: str
    site: str | None


class AdaptedModel:
    """The backbone and its adapters.

    model: the transformers model; sites: all sites in order; adapters: site name -> Adapter; new_parts: names of the head's and
    other newly initialised parameters, which always train.
    """

    def __init__(self, backbone: Backbone, adapters: Mapping[str, Adapter], shortcuts: Shortcuts | None):
        self.backbone = backbone
        self.model: nn.Module = backbone.model
        self.adapters = dict(adapters)
        self.sites: list[Site] = [adapter.site for adapter in self.adapters.values()]
        self.new_parts = list(backbone.new_parts)
        self.shortcuts = shortcuts
        self.switch(self.adapters)

    def switch(self, on: Collection[str], *, off: str = "drop") -> None:
        """Put exactly ``on`` into training. The others leave the function (``drop``), or stay in it untrained (``freeze``).

        A site that has never been on is left out of the function either way: its update is zero. Raises ValueError for a name
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
        if self.shortcuts is not None:
            self.shortcuts.wire()

    def states(self) -> dict[str, str]:
        """Site name -> dropped, frozen or on."""
        return {name: adapter.state for name, adapter in self.adapters.items()}

    @property
    def on(self) -> list[str]:
        """The names of the sites in training, in model order."""
        return [name for name, adapter in self.adapters.items() if adapter.state == ON]

    @property
    def in_function(self) -> list[str]:
        """The names of the sites whose update is part of the function, trained or not."""
        return [name for name, adapter in self.adapters.items() if adapter.state != DROPPED]

    def trained(self) -> Iterator[TrainedTensor]:
        """Every tensor that may train in this run, whether its site is on or off just now; the order never changes."""
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
        parameters = dict(self.model.named_parameters())
        return tensors | {name: parameters[name].detach() for name in self.new_parts}

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
        """Trained adapter parameters of ``sites`` (those that are on, where none are given), the head not counted."""
        chosen = set(self.on if sites is None else sites)
        return sum(tensor.parameter.numel() for tensor in self.trained() if tensor.site in chosen)

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
    generator_for: Callable[[Site], torch.Generator] | None = None,
) -> AdaptedModel:
    """Build an adapter on each of ``sites`` and switch all of them on.

    ranks: site name -> rank where it is not its spec's; generator_for: the init stream of a site, so that a site starts the same
    whatever other sites there are. Raises RecipeError for a rank above what the matrix has.
    """
    adapters: dict[str, Adapter] = {}
    for site in sites:
        spec = spec_for(site, linear, shortcut)
        rank = (ranks or {}).get(site.name, spec.rank)
        check_rank(site, rank, "adapter.shortcut_rank" if site.is_shortcut else "adapter.rank")
        base = None if site.is_shortcut else backbone.model.get_submodule(site.name)
        adapter = Adapter(site, spec, rank, base, generator_for(site) if generator_for else None)
        if base is not None:
            base.add_module("adapter", adapter)
        adapters[site.name] = adapter
    crossing = [adapter for adapter in adapters.values() if adapter.site.is_shortcut]
    wiring = Shortcuts(backbone.anatomy.streams, crossing, norm) if crossing else None
    if wiring is not None:
        device = next(backbone.model.parameters()).device
        for adapter in crossing:
            adapter.to(device)
    return AdaptedModel(backbone, adapters, wiring)


def check_rank(site: Site, rank: int, key: str) -> None:
    """Refuse a rank that the site's matrix cannot have."""
    limit = min(site.in_features, site.out_features)
    if not 1 <= rank <= limit:
        shape = f"{site.out_features}x{site.in_features}"
        raise RecipeError(
            Problem(f"rank {rank} does not fit site {site.name} ({shape})", key=key, valid=f"1 to {limit}")
        )
