"""Constant: one for every site, and the model is never run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest


def test_every_site_scores_one_and_nothing_is_computed(make: Any) -> None:
    scene = make("bert", targets=["q", "v"], shortcuts=["res1"])

    def forbidden(*_: Any) -> Any:
        pytest.fail("the model was run")

    probe = replace(scene.probe([]), loss=forbidden, logits=forbidden)
    assert scene.scores("constant", probe) == {site.name: 1.0 for site in scene.adapted.sites}
