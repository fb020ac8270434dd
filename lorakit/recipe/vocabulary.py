"""What a recipe may name, and the little it must know of that: the recipe is a floor below the things it names.

The registries are asked for only when a name is looked up, so that nothing is imported to read a recipe's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

from lorakit.registry import find_registry

if TYPE_CHECKING:
    from lorakit.recipe.schema import AdapterSection

T = TypeVar("T", covariant=True)
SEQUENCE_FILE = "sequence.yaml"  # the recipe in a folder of tasks that are learnt in order


class Method(Protocol):
    """An adapter method, as a recipe sees it: the values that it takes where a recipe gives none."""

    @property
    def lr(self) -> float:
        """The usual learning rate."""

    def fill(self, section: AdapterSection) -> AdapterSection:
        """The section with the method's targets, rank, alpha and what trains in full where it gives none."""

    def resolve(self, section: AdapterSection) -> object:
        """The section as one value on every axis. Raises RecipeError with all that does not go together."""


class Configurable(Protocol):
    """An allocator, a proxy or an optimiser, as a recipe sees it: it has options of its own."""

    @property
    def options(self) -> Mapping[str, object]:
        """By name."""

    def settings_from(self, given: Mapping[str, str]) -> object:
        """The value of every option. Raises RecipeError with all names and values that it does not have."""


class Known(Protocol[T]):
    """All things of one kind, by name."""

    def names(self) -> list[str]:
        """The names, sorted."""

    def get(self, name: str) -> T:
        """The one of this name."""

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name."""


def methods() -> Known[Method]:
    """All adapter methods."""
    return find_registry("methods")


def allocators() -> Known[Configurable]:
    """All allocators."""
    return find_registry("allocators")


def proxies() -> Known[Configurable]:
    """All proxies."""
    return find_registry("proxies")


def optimizers() -> Known[Configurable]:
    """All optimisers."""
    return find_registry("optimizers")


def names_of(registry: str) -> Callable[[], list[str]]:
    """A function that gives the names in a registry (``lorakit.registry.HOMES``), once somebody asks for them."""

    def names() -> list[str]:
        known: Known[object] = find_registry(registry)
        return known.names()

    return names
