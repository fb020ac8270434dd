"""A site that is cut to a rank trains as one that was built with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.search.scene import Scene, train
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter

Make = Callable[..., Scene]


def in_function(adapter: Adapter, name: str) -> torch.Tensor:
    """The tensor as the function sees it: its first rank units alone."""
    return adapter.magnitude if name == "magnitude" else adapter.delta.tensor(name)


@pytest.mark.parametrize("method", ["lora", "trilora", "flora", "dora"])
def test_a_cut_site_trains_as_one_of_that_rank(make: Make, method: str) -> None:
    small = make("bert", targets=["q", "v", "up"], method=method, rank=3, alpha=6.0)
    large = make("bert", targets=["q", "v", "up"], method=method, rank=6, alpha=6.0)
    for name, adapter in large.adapted.adapters.items():
        adapter.units.cut(3)
        adapter.scale = small.adapted.adapters[name].scale
        with torch.no_grad():
            for tensor, values, _ in small.adapted.adapters[name].tensors():
                in_function(adapter, tensor).copy_(values)
    for scene in (small, large):
        scene.adapted.model.eval()
        train(scene, 3)
    for name, adapter in large.adapted.adapters.items():
        for tensor, values, _ in small.adapted.adapters[name].tensors():
            live = in_function(adapter, tensor)
            assert_close(live.detach(), values.detach(), rtol=1e-4, atol=1e-6, msg=f"{name}.{tensor}")
    heads = [[t.parameter for t in scene.adapted.trained() if t.role == "head"] for scene in (small, large)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*heads, strict=True))
