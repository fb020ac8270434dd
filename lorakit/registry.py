"""Named things that register themselves: one file each, found by importing the folder they live in.

A registry stands beside the base class of its entries: ``methods`` beside ``Method`` in ``lorakit.adapters.method``.
``methods.get("dora")`` imports every file of ``lorakit.adapters.methods`` once (and whatever other packages offer under the
entry point group ``lorakit.methods``), then answers from a dictionary. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from lorakit.errors import UsageError, nearest


class Named(Protocol):
    """What can be registered: it says its name itself."""

    @property
    def name(self) -> str:
        """What recipes and the command line call it."""


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """A dictionary of ``kind`` by name, filled by the files of ``package``."""

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, entry: T) -> T:
        """Add ``entry`` under its own name; a second entry of the same name is an error of the one who registers."""
        if entry.name in self._entries:
            raise ValueError(f"{self.kind} '{entry.name}' is registered twice")
        self._entries[entry.name] = entry
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
        from importlib.metadata import entry_points  # a twentieth of a second, and the help asks for no entry

        for point in entry_points(group=f"lorakit.{self.package.rsplit('.', 1)[-1]}"):
            point.load()


HOMES = {
    "methods": "lorakit.adapters.method",
    "deltas": "lorakit.adapters.delta",
    "inits": "lorakit.adapters.init",
    "blocks": "lorakit.adapters.block",
    "updates": "lorakit.training.update",
    "optimizers": "lorakit.training.optimizer",
    "proxies": "lorakit.searching.proxy",
    "allocators": "lorakit.searching.allocator",
    "combinations": "lorakit.artifacts.combination",
    "families": "lorakit.backbone.families",
    "tasks": "lorakit.tasks.task",
}
"""Every registry -> the module it stands in, beside the base class of its entries."""


def find_registry(name: str) -> Registry[Any]:
    """The registry of that name, for who may know it by name only: the recipe, and commands that go through all of them."""
    found: Registry[Any] = getattr(importlib.import_module(HOMES[name]), name)
    return found


def named_files(name: str) -> list[str]:
    """The names in a registry of that name, as the files of this package tell them: one file an entry. Nothing is imported."""
    *floor, _ = HOMES[name].split(".")[1:]
    folder = Path(__file__).parent.joinpath(*floor, name)
    return sorted(path.stem for path in folder.glob("[a-z]*.py"))
