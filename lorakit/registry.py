"""Named things that register themselves: one file each, found by importing the folder they live in.

``methods.get("dora")`` imports every file of ``lorakit.adapters.methods`` once (and whatever other packages offer under the
entry point group ``lorakit.methods``), then answers from a dictionary. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from lorakit.errors import UsageError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary of ``kind`` by name, filled by the files of ``package``."""

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str, entry: T) -> T:
        """Add ``entry`` under ``name``; a second entry of the same name is an error of the one who registers."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called ``name``. Raises UsageError that lists the choices and the nearest one."""
        self._discover()
        if name not in self._entries:
            raise UsageError(
                f"there is no {self.kind} called '{name}'",
                valid=", ".join(self.names()),
                hint=nearest(name, self.names()),
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._entries)

    def items(self) -> list[tuple[str, T]]:
        """All (name, entry) pairs, sorted by name."""
        return [(name, self._entries[name]) for name in self.names()]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        module = importlib.import_module(self.package)
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{self.package}.{found.name}")
        for point in entry_points(group=f"lorakit.{self.package.rsplit('.', 1)[-1]}"):
            point.load()


# The registries. What an entry looks like is told in the folder's ``__init__``.
deltas: Registry[Any] = Registry("delta", "lorakit.adapters.deltas")
inits: Registry[Any] = Registry("init", "lorakit.adapters.inits")
methods: Registry[Any] = Registry("adapter method", "lorakit.adapters.methods")
blocks: Registry[Any] = Registry("block", "lorakit.adapters.blocks")
updates: Registry[Any] = Registry("training update", "lorakit.training.updates")
proxies: Registry[Any] = Registry("proxy", "lorakit.searching.proxies")
allocators: Registry[Any] = Registry("allocator", "lorakit.searching.allocators")
families: Registry[Any] = Registry("model family", "lorakit.backbone.families")
combinations: Registry[Any] = Registry("combination", "lorakit.artifacts.combinations")
tasks: Registry[Any] = Registry("task", "lorakit.tasks.catalogue")
