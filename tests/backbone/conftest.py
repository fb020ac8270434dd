"""Tiny checkpoints, each built once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.models import tiny_model

from lorakit.backbone.load import Backbone, load_backbone
from lorakit.recipe.schema import ModelSection


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny checkpoint. Not to be written into."""
    built: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in built:
            built[family] = tiny_model(family, tmp_path_factory.mktemp(family))
        return built[family]

    return folder


@pytest.fixture(scope="session")
def load() -> Callable[..., Backbone]:
    """Load a folder or a name as a classifier over (no, yes), or as keyword arguments say."""

    def loaded(
        name: str | Path, *, labels=("no", "yes"), regression=False, seed=0, offline=False, **section
    ) -> Backbone:
        model = ModelSection(name=str(name), **section)
        return load_backbone(model, labels=labels, regression=regression, seed=seed, offline=offline)

    return loaded
