"""What the public functions return: dataclasses that also turn into JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any


class Result:
    """A dataclass that turns into JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values all the way down: dataclasses become dictionaries, paths text."""
        plain: dict[str, Any] = without_paths(asdict(self))  # type: ignore[call-overload]
        return plain


def without_paths(value: Any) -> Any:
    """The same with every path as text, whatever it lies in."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_paths(item) for item in value)
    return str(value) if isinstance(value, Path) else value
