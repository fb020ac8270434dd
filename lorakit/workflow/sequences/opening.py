"""What a person means by a sequence, read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorakit.errors import UsageError
from lorakit.recipe.sequence import LoadedSequence, find_sequence, load_sequence

AnySequence = str | Path | LoadedSequence
"""What a function takes for a sequence: a YAML file with the key ``sequence``, the folder of one, or one that is loaded."""


def opened(recipe: AnySequence, overrides: Sequence[str] = (), *, offline: bool = False) -> LoadedSequence:
    """The sequence that is meant. UsageError where it is one recipe, or there is none."""
    if isinstance(recipe, LoadedSequence):
        return recipe
    path = find_sequence(recipe)
    if path is None:
        raise UsageError(
            "is no sequence of tasks", where=str(recipe), valid="a YAML file with the key sequence, or its folder"
        )
    return load_sequence(path, overrides, offline=offline)
