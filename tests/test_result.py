"""Results as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

from lorakit.result import Result


@dataclass
class Inner(Result):
    path: Path
    value: float


@dataclass
class Outer(Result):
    inner: Inner
    paths: list[Path]
    pairs: dict[str, tuple[Path, int]]
    nothing: Path | None


def test_paths_become_text_wherever_they_are():
    result = Outer(Inner(Path("a"), 0.5), [Path("b"), Path("c/d")], {"e": (Path("f"), 1)}, None)
    told = {"inner": {"path": "a", "value": 0.5}, "paths": ["b", "c/d"], "pairs": {"e": ("f", 1)}, "nothing": None}
    assert result.to_dict() == told
    assert json.loads(json.dumps(result.to_dict()))["pairs"]["e"] == ["f", 1]
    assert result.inner.path == Path("a")
