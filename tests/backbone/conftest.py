"""A way to load a tiny checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.backbone.load import Backbone, load_backbone
from lorakit.recipe.schema import ModelSection


@pytest.fixture(scope="session")
def load() -> Callable[..., Backbone]:
    """Load a folder or a name as a classifier over (no, yes), or as keyword arguments say."""

    def loaded(
        name: str | Path, *, labels=("no", "yes"), regression=False, seed=0, offline=False, **section
    ) -> Backbone:
        model = ModelSection(name=str(name), **section)
        return load_backbone(model, labels=labels, regression=regression, seed=seed, offline=offline)

    return loaded
