"""A recipe in the current folder, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lorakit.errors import Problem, RecipeError
from lorakit.recipe.load import LoadedRecipe, load_recipe

HEAD = "model: {name: bundled:minilm}\ntask: {name: mrpc}\n"  # lines 1 and 2 of every recipe written by `load` and `mistakes`


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[..., LoadedRecipe]:
    def load(text: str = "", *overrides: str, head: str = HEAD) -> LoadedRecipe:
        Path("mine.yaml").write_text(head + text, encoding="utf-8")
        return load_recipe("mine.yaml", overrides)

    return load


@pytest.fixture
def mistakes(load: Callable[..., LoadedRecipe]) -> Callable[..., tuple[Problem, ...]]:
    """All problems of a recipe, which must have some."""

    def mistakes(text: str = "", *overrides: str, head: str = HEAD) -> tuple[Problem, ...]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides, head=head)
        assert caught.value.exit_code == 2
        return caught.value.problems

    return mistakes
