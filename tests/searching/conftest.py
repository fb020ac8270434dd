"""Tiny random backbones with forty rows of random words, adapted anew for every test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.search.scene import Scene

    from lorakit.backbone.load import Backbone
    from lorakit.tasks.batching import Encoded


@pytest.fixture(scope="session")
def make(fresh: Callable[..., Backbone]) -> Callable[..., Scene]:
    """``make(family, targets=, shortcuts=, **adapter section)``: a fresh scene; the same arguments give the same one."""
    from support.search.scene import make_scene, rows_of_words

    from lorakit.tasks.batching import encode

    rows: dict[str, Encoded] = {}

    def build(family: str, **options: Any) -> Scene:
        original = fresh(family, shared=True)
        if family not in rows:
            rows[family] = encode(rows_of_words(), original.tokenizer, 32)
        return make_scene(fresh(family), original.model, rows[family], **options)

    return build
