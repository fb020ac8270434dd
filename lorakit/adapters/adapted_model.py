"""A backbone with adapters on its sites: what trains, what is on, and how it is switched."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.block import Wiring
from lorakit.adapters.blocks.shortcut import Shortcuts
from lorakit.adapters.shared import Shared
from lorakit.adapters.switching import DROPPED, FROZEN, ON, WATCHED, thaw
from lorakit.backbone.load import Backbone
from lorakit.backbone.quantised import MixedLinear
from lorakit.backbone.site import Site
from lorakit.errors import RunError

HEAD = "head"
"""The role of new parts."""
SHARED = "shared"
"""What the names of shared tensors begin with."""


@dataclass(frozen=True)
class TrainedTensor:
    """One tensor that trains."""

    name: str
    """Its name as in ``AdaptedModel.tensors``."""
    parameter: nn.Parameter
    """Itself."""
    role: str
    """A, B, magnitude, head, ..."""
    site: str | None
    """The name of its site, None for the head and for what sites share."""


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of names, kinds and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class AdaptedModel:
    """The backbone and its adapters, all switched on at first.

    Args:
        backbone: the model, frozen but for its new parts.
        adapters: site name -> adapter, in model order.
        shortcuts: what wires the shortcuts among them into the layers.
        shared: group -> the tensors that its sites have in common.
        wiring: what installs the other adapters that are no module's own.
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
        """The transformers model, with the adapters in it."""
        self.adapters = dict(adapters)
        self.sites: list[Site] = [adapter.site for adapter in self.adapters.values()]
        """All sites in order."""
        self.new_parts = list(backbone.new_parts)
        """Names of the head's and other newly initialised parameters, which always train."""
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
            return FROZEN if off == "freeze" and not adapter.changes_nothing() else DROPPED

        self.restore({name: state_of(name, adapter) for name, adapter in self.adapters.items()})

    def restore(self, states: Mapping[str, str]) -> None:
        """Put every adapter into its recorded state (see ``states``)."""
        for name, adapter in self.adapters.items():
            adapter.switch(states[name])
        for group, shared in self.shared.items():
            users = {self.adapters[name].state: self.adapters[name] for name in self.sites_sharing(group)}
            for _, parameter, role in shared.tensors():
                parameter.requires_grad_(ON in users and users[ON].spec.trains(role))
        for wiring in self.wirings:
            wiring.wire()

    def states(self) -> dict[str, str]:
        """Site name -> dropped, frozen or on."""
        return {name: adapter.state for name, adapter in self.adapters.items()}

    def ranks(self) -> dict[str, int]:
        """Site name -> its live rank units; 0 where it is not in training."""
        return {name: a.units.live if a.state == ON else 0 for name, a in self.adapters.items()}

    def unit_record(self) -> dict[str, dict[str, Any]]:
        """Site name -> its rank units, ready for JSON, of every site that has not all of them."""
        return {name: record for name, a in self.adapters.items() if (record := a.units.record()) is not None}

    def restore_units(self, record: Mapping[str, Mapping[str, Any]]) -> None:
        """Put every site's rank units as ``unit_record`` has them."""
        for name, adapter in self.adapters.items():
            adapter.units.restore(record.get(name))

    def watch(self, wanted: bool) -> None:
        """Let the sites that are off get gradients for one step without being in the function, or end that.

        A dropped site is watched from outside; a frozen one is in the function and is thawed. Gradients of sites that were not on are
        forgotten at the end.
        """
        for adapter in self.adapters.values():
            if wanted and adapter.state == DROPPED:
                adapter.switch(WATCHED)
            elif wanted and adapter.state == FROZEN:
                thaw(adapter)
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

    @property
    def live_shortcuts(self) -> list[Adapter]:
        """The shortcuts that the function has, or all where their second norm stays: what no weight of the model can hold."""
        if self.shortcuts is None:
            return []
        return [a for a in self.shortcuts.adapters.values() if a.state != DROPPED or self.shortcuts.second_norm]

    def sites_sharing(self, group: str) -> list[str]:
        """The names of the sites that have this group's shared tensors in common."""
        return [name for name, a in self.adapters.items() if a.delta.shared is self.shared[group]]

    def trained(self) -> Iterator[TrainedTensor]:
        """Every tensor that may train in this run, whether its site is on or off just now; the order never changes."""
        for group, shared in self.shared.items():
            spec = self.adapters[self.sites_sharing(group)[0]].spec
            for name, parameter, role in shared.tensors():
                if spec.trains(role):
                    yield TrainedTensor(f"{SHARED}.{group}.{name}", parameter, role, None)
        for site, adapter in self.adapters.items():
            for name, parameter, role in adapter.trained_tensors():
                yield TrainedTensor(f"{site}.{name}", parameter, role, site)
        parameters = dict(self.model.named_parameters())
        for name in self.new_parts:
            yield TrainedTensor(name, parameters[name], HEAD, None)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every adapter tensor and new part, by the names that ``load_tensors`` takes. Shares memory with the model."""
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

    def own_base(self) -> dict[str, torch.Tensor]:
        """``SITE.BUFFER`` -> what quantised weights are kept in that the run chose, and the adapter belongs to. Shares memory."""
        chosen: dict[str, nn.Module] = {
            name: module for name, module in self.model.named_modules() if isinstance(module, MixedLinear)
        }
        chosen |= {
            name: adapter.base
            for name, adapter in self.adapters.items()
            if adapter.own_base and adapter.base is not None
        }
        return {
            f"{name}.{key}": buffer
            for name, module in chosen.items()
            for key, buffer in module.named_buffers(recurse=False)
        }

    @cached_property
    def base_digest(self) -> str:
        """sha256 of ``own_base``, empty where there is none. Asked for once these weights are in place, which never change then."""
        held = self.own_base()
        return digest_of(held) if held else ""

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy values in. Raises RunError where one of ``tensors()`` is missing or has another shape; then nothing is copied."""
        own = self.tensors()
        for name, tensor in own.items():
            if name not in tensors:
                raise RunError(f"there is no tensor '{name}' among those to load")
            if tensors[name].shape != tensor.shape:
                raise RunError(f"'{name}' has shape {[*tensors[name].shape]}, the model's has {[*tensor.shape]}")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    def adapter_parameters(self, sites: Iterable[str] | None = None) -> int:
        """Trained adapter parameters of ``sites`` (those that are on, where none are given), the head not counted.

        What sites share counts once, wherever one of its users is among them.
        """
        chosen = set(self.on if sites is None else sites)
        own = sum(self.adapters[name].parameters_at(self.adapters[name].units.live) for name in chosen)
        used = {f"{SHARED}.{group}" for group in self.shared if chosen & set(self.sites_sharing(group))}
        if not used:
            return own
        return own + sum(
            tensor.parameter.numel()
            for tensor in self.trained()
            if tensor.site is None and tensor.name.rpartition(".")[0] in used
        )

    def head_parameters(self) -> int:
        """Parameters of the head and other new parts."""
        return sum(tensor.parameter.numel() for tensor in self.trained() if tensor.role == HEAD)
