"""Results that are there are not made again, nor taken for those of other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorakit.artifacts.files import read_json, write_json
from lorakit.artifacts.run import environment


def kept(file: Path, asked: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in ``file``, made where it is not there yet; asked: the settings that it depends on, beside what its name says.

    SystemExit where what is there was asked for otherwise.
    """
    if not file.exists():
        write_json(file, make() | {"asked": dict(asked), "environment": environment()})
        print(file.stem, flush=True)
    found: dict[str, Any] = read_json(file)
    if other := {name: found["asked"].get(name) for name, value in asked.items() if found["asked"].get(name) != value}:
        raise SystemExit(f"{file} was made with {other}, and now {asked} is asked for: another --out, or delete it")
    return found
