"""Where the real data and models are, and settings that every test shares."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} does not name a folder")
    return Path(value).resolve()


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Real GLUE, a parquet folder a task."""
    return folder_from("LORAKIT_GLUE_DIR")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Real pretrained checkpoints, a folder each."""
    return folder_from("LORAKIT_MODELS_DIR")
