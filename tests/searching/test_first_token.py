"""Tokens that the head does not read are left out of training steps for searches that say that they look at no tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.search.scene import Scene
from support.search.unit_contract import act, optimizer_for
from torch import nn

from lorakit.backbone.first_token import compute_first_token_only
from lorakit.searching.allocator import allocators

BLIND = [name for name, kind in allocators.items() if not kind.before_training and not kind.sees_tokens]
SETTINGS: dict[str, dict[str, Any]] = {
    "gradsvd": {"options": {"whiten": "diagonal"}},
    "heterolora": {"scoring": "streaming"},
}
"""With which it looks at most."""


@pytest.mark.parametrize("name", BLIND)
def test_scores_are_those_of_all_tokens(make: Callable[..., Scene], name: str) -> None:
    scores = []
    for left_out in (False, True):
        scene = make("bert", method=name if name in ("adalora", "sora") else "lora")
        model = scene.adapted.model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        optimizer = optimizer_for(scene)
        settings = {"enable": 0.5, **SETTINGS.get(name, {})}
        allocator = scene.allocator(method=name, total_steps=5, ticks=(0, 3), optimizer=optimizer, **settings)
        if left_out:
            assert compute_first_token_only(model, scene.adapted.backbone.anatomy)
        ticks = act(scene, allocator, optimizer, range(4))
        scores.append([tick["scores"] for tick in ticks])
    assert scores[1] == [pytest.approx(tick, rel=1e-3, abs=1e-9) for tick in scores[0]]
